"""SemCKD: each student stage imitates all teacher stages, weighted per sample by attention.

Source: Chen et al., AAAI 2021, arXiv 2012.03236.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import Above, AtLeast
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import (
    Distiller,
    Step,
    at_least_float32,
    cross_entropy,
    full_precision,
)
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.distillers.maps import pool_to
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.base import conv_norm
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    "KD_WEIGHT": 1.0,  # weight of tau^2 KL
    "TAU": 4.0,  # temperature of that KL
    "FEAT_WEIGHT": 400.0,  # weight of the attended feature loss
    "SOFT": 1.0,  # divides the attention logits
    "FACTOR": 4,  # batch size over length of queries and keys; at most the batch size
    **lskd.CONFIG,
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "KD_WEIGHT": AtLeast(0),
    "TAU": Above(0),
    "FEAT_WEIGHT": AtLeast(0),
    "SOFT": Above(0),
    "FACTOR": AtLeast(1),
    **lskd.ALLOWED,
}


def check_factor(cfg: CN) -> None:
    """Raises UserError where queries and keys would have no component."""
    factor = cfg.SEMCKD.FACTOR
    batch_size = cfg.SOLVER.BATCH_SIZE
    if factor > batch_size:
        raise UserError(f"SEMCKD.FACTOR is {factor}; allowed: 1 to SOLVER.BATCH_SIZE, {batch_size}")


def attended_loss(distances: Tensor, attention: Tensor) -> Tensor:
    """1 / (B n_S) sum over samples, student and teacher stages of attention times distance.

    Args:
        distances: [B, n_S, n_T], at least 0.
        attention: [B, n_S, n_T], each [b, s] a distribution over the teacher's stages.
    Returns:
        scalar, at least 0.
    Source: arXiv 2012.03236, section 3; division as in the authors' code.
    """
    per_stage = (attention * distances).sum(2)  # [B, n_S]
    return per_stage.mean()


def attention_weights(queries: Tensor, keys: Tensor, soft: float) -> Tensor:
    """softmax over teacher stages of query . key / soft.

    Args:
        queries: [B, n_S, D].
        keys: [B, n_T, D].
        soft: above 0.
    Returns:
        [B, n_S, n_T].
    """
    return torch.softmax(queries @ keys.transpose(1, 2) / soft, dim=2)


def gram(feat: Tensor) -> Tensor:
    """Inner products of all pairs of samples, in float32 or wider. feat [B, C, H, W]; [B, B]."""
    flat = at_least_float32(feat).flatten(1)  # [B, CHW]
    return flat @ flat.T


def same_size(feat_student: Tensor, feat_teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Averages the larger of two maps [B, C, H, W] down to the smaller one's size."""
    if feat_student.shape[2] > feat_teacher.shape[2]:
        return pool_to(feat_student, feat_teacher.shape[2:]), feat_teacher
    return feat_student, pool_to(feat_teacher, feat_student.shape[2:])


class Embedding(nn.Sequential):
    """A stage's Gram matrix [B, B] to a vector of length 1 per sample [B, D].

    Linear B -> 2D, ReLU, linear 2D -> D.
    """

    def __init__(self, batch_size: int, dim: int):
        super().__init__(nn.Linear(batch_size, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(super().forward(x))  # DIFF 1: a zero vector stays zero


class Attention(nn.Module):
    """The attention and the regressors of all stage pairs.

    Args:
        channels, teacher_channels: of the stages, stem left out.
        batch_size: B, into which the embeddings' first layer is built.
        factor: D = B // factor.
        soft: divides the attention's logits.
    """

    def __init__(
        self,
        channels: list[int],
        teacher_channels: list[int],
        batch_size: int,
        factor: int,
        soft: float,
    ):
        super().__init__()
        self.soft = soft
        dim = batch_size // factor
        self.queries = nn.ModuleList(Embedding(batch_size, dim) for _ in channels)
        self.keys = nn.ModuleList(Embedding(batch_size, dim) for _ in teacher_channels)
        self.regressors = nn.ModuleList(
            nn.ModuleList(regressor(c, t) for t in teacher_channels) for c in channels
        )

    def forward(
        self, feats_student: list[Tensor], feats_teacher: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Maps of both networks' stages to distances and attention.

        Args:
            feats_student, feats_teacher: n_S and n_T maps [B, C, H, W].
        Returns:
            both [B, n_S, n_T].
        """
        distances = []
        for feat_student, row in zip(feats_student, self.regressors, strict=True):
            for feat_teacher, regress in zip(feats_teacher, row.children(), strict=True):
                source, goal = same_size(feat_student, feat_teacher)  # [B, C, H, W] each
                error = at_least_float32(regress(source)) - at_least_float32(goal)  # [B, C, H, W]
                distances.append(error.square().mean((1, 2, 3)))  # [B]

        # DIFF 3: float32 also under autocast, since Gram matrices overflow float16
        with full_precision(feats_student[0]):
            queries = [embed(gram(f)) for embed, f in zip(self.queries, feats_student, strict=True)]
            keys = [embed(gram(f)) for embed, f in zip(self.keys, feats_teacher, strict=True)]
            attention = attention_weights(
                torch.stack(queries, dim=1), torch.stack(keys, dim=1), self.soft
            )  # [B, n_S, n_T]
        return torch.stack(distances, dim=1).view_as(attention), attention


def regressor(channels: int, teacher_channels: int) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolution by way of twice the teacher's channels, all without bias.

    Torch's own initialisation.
    """
    wide = 2 * teacher_channels
    last = nn.Conv2d(wide, teacher_channels, 1, bias=False)
    return nn.Sequential(
        *conv_norm(channels, wide, 1), nn.ReLU(), *conv_norm(wide, wide, 3), nn.ReLU(), last
    )


@METHODS.register("SEMCKD", config=CONFIG, allowed=ALLOWED, rule=check_factor, renamed={"T": "TAU"})
class SemCKD(Distiller):
    """CE_WEIGHT * CE + KD_WEIGHT * tau^2 KL + FEAT_WEIGHT * attended loss.

    Trains attention and regressors beside the student. The attention's gradient reaches the student
    through its Gram matrices, as in the authors' code.
    """

    needs_whole_batch = True
    needs_constant_batch = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CN):
        super().__init__(student, teacher)
        self.node = cfg.SEMCKD
        self.batch_size = cfg.SOLVER.BATCH_SIZE
        channels, teacher_channels = (
            [f.shape[1] for f in probe(net)[1]["feats"][1:]] for net in (student, teacher)
        )
        self.attention = Attention(
            channels, teacher_channels, self.batch_size, self.node.FACTOR, self.node.SOFT
        )

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        """As in `Distiller`; a batch of another size than SOLVER.BATCH_SIZE trains by CE alone."""
        logits_student, feats_student = self.student(image)  # [N, K]
        loss_ce = self.node.CE_WEIGHT * cross_entropy(logits_student, target)
        if len(image) != self.batch_size:
            # DIFF 2: the authors' loop skips it, as ours does; mdistiller's would not
            return logits_student, {"loss_ce": loss_ce}

        with torch.no_grad():
            logits_teacher, feats_teacher = self.teacher(image)  # [N, K]
        distances, attention = self.attention(
            feats_student["feats"][1:], feats_teacher["feats"][1:]
        )
        feat = attended_loss(distances, attention)
        seen = kl_logits(self.node.LOGIT_STANDARD, logits_student, logits_teacher)  # [N, K] both
        kd = kd_loss(*seen, self.node.TAU)

        self.terms = {"semckd_feat": feat.detach(), "kd": kd.detach()}
        return logits_student, {
            "loss_ce": loss_ce,
            "loss_kd": self.node.FEAT_WEIGHT * feat + self.node.KD_WEIGHT * kd,
        }

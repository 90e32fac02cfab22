"""SRRL: the student's features must work in the teacher's own classifier.

Source: Yang et al., ICLR 2021.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import Above, AtLeast, OneOf
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
from sdkd_plugin.models.base import conv_norm, init_convolutions
from sdkd_plugin.models.probe import pooled_dim
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    # weight of tau^2 KL; 1 in SimKD's repository, whose numbers are the published ones
    "KD_WEIGHT": 0.0,
    "TAU": 4.0,  # temperature of that KL
    "FM_WEIGHT": 1.0,  # weight of the feature matching loss
    "SR_WEIGHT": 1.0,  # weight of the softmax regression loss
    # map: 1x1 convolution before the global average, as the authors' | pooled: after it, as SimKD's
    "CONNECTOR": "map",
    **lskd.CONFIG,
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "KD_WEIGHT": AtLeast(0),
    "TAU": Above(0),
    "FM_WEIGHT": AtLeast(0),
    "SR_WEIGHT": AtLeast(0),
    "CONNECTOR": OneOf(("map", "pooled"), "connector"),
    **lskd.ALLOWED,
}


def srrl_losses(
    pooled_student: Tensor, pooled_teacher: Tensor, logits_teacher: Tensor, head: nn.Module
) -> tuple[Tensor, Tensor]:
    """Feature matching and softmax regression losses, both mean squared differences.

    L_FM = mean((a - b)^2), L_SR = mean((h_T(a) - z_T)^2) with a, b the pooled features, h_T the
    teacher's classifier.

    Args:
        pooled_student: [N, D_T], the student's feature after the connector.
        pooled_teacher: [N, D_T].
        logits_teacher: [N, K].
        head: the teacher's classifier, D_T -> K; the gradient flows through it into pooled_student.
    Returns:
        L_FM and L_SR, scalars, at least 0.
    Source: the authors' code (KD_SRRL d2e802f), where L_SR has no temperature.
    """
    a = at_least_float32(pooled_student)  # [N, D_T]
    b = at_least_float32(pooled_teacher)  # [N, D_T]
    matching = F.mse_loss(a, b)
    regression = F.mse_loss(at_least_float32(head(a)), at_least_float32(logits_teacher))
    return matching, regression


class Connector(nn.Module):
    """relu(BN(conv1x1)) from the student's to the teacher's channels, and the global average.

    Args:
        channels, teacher_channels: of the maps in front of the two heads.
        kind: whether the convolution sees the whole map or its average ("map" | "pooled").
    """

    def __init__(self, channels: int, teacher_channels: int, kind: str):
        super().__init__()
        self.pools_first = kind == "pooled"
        self.transfer = conv_norm(channels, teacher_channels, 1).append(nn.ReLU())
        init_convolutions(self)  # DIFF 2: for both kinds

    def forward(self, head_in: Tensor) -> Tensor:
        """[N, D_S, H, W] to [N, D_T]."""
        x = head_in.mean((2, 3), keepdim=True) if self.pools_first else head_in
        return self.transfer(x).mean((2, 3))  # [N, D_T]


@METHODS.register("SRRL", config=CONFIG, allowed=ALLOWED, renamed={"T": "TAU"})
class SRRL(Distiller):
    """CE_WEIGHT * CE + FM_WEIGHT * L_FM + SR_WEIGHT * L_SR + KD_WEIGHT * tau^2 KL.

    Trains a connector beside the student.
    """

    needs_model_extras = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CN):
        super().__init__(student, teacher)
        self.node = cfg.SRRL
        self.connector = Connector(pooled_dim(student), pooled_dim(teacher), self.node.CONNECTOR)

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, feats_teacher = self.teacher(image)  # [N, K]

        # DIFF 1: what the head averages, non-negative as what leaves the connector; WRN's and
        # MobileNetV2's last feats are not
        pooled_student = self.connector(feats_student["head_in"])  # [N, D_T]
        with full_precision(image):
            matching, regression = srrl_losses(
                pooled_student,
                feats_teacher["pooled_feat"],
                logits_teacher,
                self.teacher.classifier_module(),
            )
        seen = kl_logits(self.node.LOGIT_STANDARD, logits_student, logits_teacher)  # [N, K] both
        kd = kd_loss(*seen, self.node.TAU)

        self.terms = {
            "srrl_fm": matching.detach(),
            "srrl_sr": regression.detach(),
            "kd": kd.detach(),
        }
        loss_kd = (
            self.node.FM_WEIGHT * matching
            + self.node.SR_WEIGHT * regression
            + self.node.KD_WEIGHT * kd
        )
        return logits_student, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": loss_kd,
        }

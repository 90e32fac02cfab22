"""VID: the student's maps predict the teacher's, and how sure they are.

Source: Ahn et al., CVPR 2019, arXiv 1904.05835.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, Anything, AtLeast
from sdkd_plugin.distillers.base import Distiller, Step, add_up, at_least_float32, cross_entropy
from sdkd_plugin.distillers.maps import pool_pair
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        "FEAT_WEIGHT": 1.0,  # weight of the negative log likelihood
    },
    "EPS": 1e-5,  # least variance
    "INIT_PRED_VAR": 5.0,  # variance at the start; above EPS
    "INPUT_SIZE": [32, 32],  # read by mdistiller only; here both networks are measured
}
ALLOWED = {
    "LOSS.CE_WEIGHT": AtLeast(0),
    "LOSS.FEAT_WEIGHT": AtLeast(0),
    "EPS": Above(0),
    "INIT_PRED_VAR": Above(0),
    "INPUT_SIZE": Anything(),
}


def check_start(cfg: CfgNode) -> None:
    """Raises UserError unless the variance at the start is above the least one."""
    start, least = cfg.VID.INIT_PRED_VAR, cfg.VID.EPS
    if not start > least:
        raise UserError(f"VID.INIT_PRED_VAR is {start}; allowed: above VID.EPS, {least}")


def vid_loss(mean: Tensor, feat_teacher: Tensor, rho: Tensor, eps: float) -> Tensor:
    """mean of 1/2 [(mu - F_T)^2 / v + log v] with v = softplus(rho) + eps.

    That is the Gaussian negative log likelihood less its constant.

    Args:
        mean: mu [N, C, H, W], the prediction, unbounded.
        feat_teacher: [N, C, H, W], unbounded.
        rho: [C], unbounded, one per channel.
        eps: least variance, above 0.
    Returns:
        scalar, below 0 where variances are small; mean over the batch, channels and positions.
    Source: arXiv 1904.05835, eq. 5 and 6.
    """
    # DIFF 2: softplus, where log(1 + exp(rho)) overflows
    variance = F.softplus(at_least_float32(rho)) + eps  # [C]
    error = (at_least_float32(mean) - at_least_float32(feat_teacher)).square()  # [N, C, H, W]
    # the logarithm is taken of C numbers, not of every position; channels count alike in both means
    return 0.5 * ((error / variance.view(1, -1, 1, 1)).mean() + variance.log().mean())


class Predictor(nn.Module):
    """A student map's prediction of a teacher map: three 1x1 convolutions without bias, ReLUs
    between; one rho per channel.

    Args:
        channels, teacher_channels: of the two maps.
        variance, eps: softplus(rho) + eps is this variance at the start.
    """

    def __init__(self, channels: int, teacher_channels: int, variance: float, eps: float):
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )

        start = variance - eps
        # the inverse of softplus, written so that a large start does not overflow
        rho = start + math.log(-math.expm1(-start))
        self.rho = nn.Parameter(torch.full((teacher_channels,), rho))  # DIFF 1: a parameter
        self.eps = eps

    def forward(self, feat_student: Tensor, feat_teacher: Tensor) -> Tensor:
        """`vid_loss` of maps [N, C_S, H, W] and [N, C_T, H', W'], after average pooling of the
        larger one.
        """
        feat_student, feat_teacher = pool_pair(feat_student, feat_teacher)
        mean = self.mean(feat_student)  # [N, C_T, H, W]
        return vid_loss(mean, feat_teacher, self.rho, self.eps)


@METHODS.register("VID", config=CONFIG, allowed=ALLOWED, rule=check_start)
class VID(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * sum of `vid_loss` over the stages after the stem; trains a
    `Predictor` for each.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        node = cfg.VID
        self.ce_weight = node.LOSS.CE_WEIGHT
        self.feat_weight = node.LOSS.FEAT_WEIGHT

        # DIFF 3: measured in eval mode; mdistiller's probe moves the running statistics of both
        # networks
        channels_s, channels_t = (
            [x.shape[1] for x in probe(net)[1]["feats"][1:]] for net in (student, teacher)
        )
        # paired from the first; what has no partner is left out
        self.predictors = nn.ModuleList(
            Predictor(own, theirs, node.INIT_PRED_VAR, node.EPS)
            for own, theirs in zip(channels_s, channels_t, strict=False)
        )

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        stages = zip(
            self.predictors, feats_student["feats"][1:], feats_teacher["feats"][1:], strict=False
        )
        likelihood = add_up(predict(own, theirs) for predict, own, theirs in stages)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * likelihood,
        }

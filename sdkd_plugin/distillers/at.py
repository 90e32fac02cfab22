"""AT: the student looks where the teacher looks.

Source: Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import AtLeast
from sdkd_plugin.distillers.base import Distiller, Step, add_up, at_least_float32, cross_entropy
from sdkd_plugin.distillers.maps import pool_pair, unit
from sdkd_plugin.registry import METHODS

CONFIG = {
    "P": 2.0,  # exponent of |activation|
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        "FEAT_WEIGHT": 1000.0,  # weight of the attention maps' distance
    },
}
ALLOWED = {
    "P": AtLeast(1),  # below it the gradient is infinite at 0, where a ReLU puts many activations
    "LOSS.CE_WEIGHT": AtLeast(0),
    "LOSS.FEAT_WEIGHT": AtLeast(0),
}


def attention(feat: Tensor, p: float) -> Tensor:
    """Where a map is active: mean over channels of |f|^p, as rows of length 1.

    Args:
        feat: [N, C, H, W].
        p: exponent, at least 1.
    Returns:
        [N, H W]; a row of zeros for a map of zeros.
    """
    # DIFF 2: |f|, as in the paper
    energy = at_least_float32(feat).abs().pow(p).mean(1)  # [N, H, W]
    return unit(energy.flatten(1))


def at_loss(feats_student: Sequence[Tensor], feats_teacher: Sequence[Tensor], p: float) -> Tensor:
    """Sum over stages of mean (A(F_S) - A(F_T))^2, A = `attention`, after average pooling of the
    larger map.

    Args:
        feats_student, feats_teacher: maps [N, C, H, W], paired from the first; what has no partner
            is left out.
        p: exponent, at least 1.
    Returns:
        scalar, at least 0; mean over the batch and the positions.
    Source: arXiv 1612.03928, section 3.1; the mean as in the authors' code and RepDistiller
    b84f547.
    """
    # [N, C, H, W] and [N, C', H, W] each
    pairs = [pool_pair(*maps) for maps in zip(feats_student, feats_teacher, strict=False)]
    return add_up(F.mse_loss(attention(s, p), attention(t, p)) for s, t in pairs)  # DIFF 1


@METHODS.register("AT", config=CONFIG, allowed=ALLOWED)
class AT(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * `at_loss` of the stages after the stem; nothing trainable
    beside the student.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.p = cfg.AT.P
        self.ce_weight = cfg.AT.LOSS.CE_WEIGHT
        self.feat_weight = cfg.AT.LOSS.FEAT_WEIGHT

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        distance = at_loss(feats_student["feats"][1:], feats_teacher["feats"][1:], self.p)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * distance,
        }

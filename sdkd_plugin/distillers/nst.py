"""NST: a student's channels, as patterns in space, are distributed as the teacher's (Huang, Wang,
2017, arXiv 1707.01219).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import AtLeast
from sdkd_plugin.distillers.base import Distiller, at_least_float32, cross_entropy
from sdkd_plugin.distillers.maps import pool_pair, unit
from sdkd_plugin.registry import METHODS

CONFIG = {
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        "FEAT_WEIGHT": 50.0,  # weight of the channels' discrepancy
    },
}
ALLOWED = {"LOSS.CE_WEIGHT": AtLeast(0), "LOSS.FEAT_WEIGHT": AtLeast(0)}


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared MMD under the kernel (a . b)^2: mean k(s, s') + mean k(t, t') - 2 mean k(s, t),
    averaged over the batch.

    Args:
        student, teacher: [N, C, P] and [N, D, P], any rows.
    Returns:
        scalar, at least 0.
    """
    c, d, positions = student.shape[1], teacher.shape[1], student.shape[2]
    if positions * (c + d) < c * d:
        # DIFF 1: sum (a . b)^2 over all rows of A and B is <A^T A, B^T B>, so all three terms are
        # one square of [P, P]
        difference = student.mT @ student / c - teacher.mT @ teacher / d
        return difference.square().sum((1, 2)).mean()
    own, theirs, across = (
        (a @ b.mT).square().mean()
        for a, b in ((student, student), (teacher, teacher), (student, teacher))
    )
    return own + theirs - 2 * across


def nst_loss(feats_student: Sequence[Tensor], feats_teacher: Sequence[Tensor]) -> Tensor:
    """Sum over stages of the `discrepancy` of both maps' channels, each divided by its length over
    space.

    Args:
        feats_student, feats_teacher: maps [N, C, H, W], paired from the first; what has no partner
            is left out. The larger map of a pair is average-pooled to the smaller one's size.
    Returns:
        scalar, at least 0 up to rounding.
    Source: arXiv 1707.01219, eq. 6 with the polynomial kernel of degree 2, offset 0.
    """
    total = 0.0
    with torch.autocast(
        feats_student[0].device.type, enabled=False
    ):  # which would round the products' inputs
        for maps in zip(feats_student, feats_teacher, strict=False):
            total = total + discrepancy(
                *(unit(at_least_float32(x).flatten(2)) for x in pool_pair(*maps))
            )
    return total


@METHODS.register("NST", config=CONFIG, allowed=ALLOWED)
class NST(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * `nst_loss` of the stages after the stem; nothing trainable
    beside the student.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.ce_weight, self.feat_weight = cfg.NST.LOSS.CE_WEIGHT, cfg.NST.LOSS.FEAT_WEIGHT

    def forward_train(
        self, image: Tensor, target: Tensor, epoch: int = 1, **extras
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feats_student = self.student(image)
        with torch.no_grad():
            feats_teacher = self.teacher(image)[1]
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight
            * nst_loss(feats_student["feats"][1:], feats_teacher["feats"][1:]),
        }

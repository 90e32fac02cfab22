"""NST: a student's channels, as patterns in space, are distributed as the teacher's.

Source: Huang, Wang 2017, arXiv 1707.01219.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import AtLeast
from sdkd_plugin.distillers.base import (
    Distiller,
    Step,
    add_up,
    at_least_float32,
    cross_entropy,
    full_precision,
)
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
    c = student.shape[1]
    d = teacher.shape[1]
    positions = student.shape[2]
    if positions * (c + d) < c * d:
        # DIFF 1: sum (a . b)^2 over all rows of A and B is <A^T A, B^T B>, so that all three terms
        # are one square
        difference = student.mT @ student / c - teacher.mT @ teacher / d  # [N, P, P]
        return difference.square().sum((1, 2)).mean()

    own = (student @ student.mT).square().mean()  # of [N, C, C]
    theirs = (teacher @ teacher.mT).square().mean()  # of [N, D, D]
    across = (student @ teacher.mT).square().mean()  # of [N, C, D]
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
    with full_precision(feats_student[0]):
        pairs = [pool_pair(*maps) for maps in zip(feats_student, feats_teacher, strict=False)]
        return add_up(
            discrepancy(_channels(student), _channels(teacher)) for student, teacher in pairs
        )


def _channels(feat: Tensor) -> Tensor:
    """A map [N, C, H, W] as rows [N, C, H W] of length 1."""
    return unit(at_least_float32(feat).flatten(2))


@METHODS.register("NST", config=CONFIG, allowed=ALLOWED)
class NST(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * `nst_loss` of the stages after the stem; nothing trainable
    beside the student.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.ce_weight = cfg.NST.LOSS.CE_WEIGHT
        self.feat_weight = cfg.NST.LOSS.FEAT_WEIGHT

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        distance = nst_loss(feats_student["feats"][1:], feats_teacher["feats"][1:])
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * distance,
        }

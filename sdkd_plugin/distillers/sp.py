"""SP: images that look alike to the teacher look alike to the student.

Source: Tung, Mori, ICCV 2019, arXiv 1907.09682.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import AtLeast
from sdkd_plugin.distillers.base import (
    Distiller,
    Step,
    at_least_float32,
    cross_entropy,
    full_precision,
)
from sdkd_plugin.distillers.maps import unit
from sdkd_plugin.registry import METHODS

CONFIG = {
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        "FEAT_WEIGHT": 3000.0,  # weight of the similarities' distance
    },
}
ALLOWED = {"LOSS.CE_WEIGHT": AtLeast(0), "LOSS.FEAT_WEIGHT": AtLeast(0)}


def similarity(feat: Tensor) -> Tensor:
    """G = Q Q^T of a batch of maps, Q their activations as rows; each row of G has length 1.

    Args:
        feat: [N, C, H, W].
    Returns:
        [N, N].
    """
    rows = at_least_float32(feat).flatten(1)  # [N, C H W]
    return unit(rows @ rows.T)  # DIFF 1: an image whose map is all zeros gets no gradient


def sp_loss(feat_student: Tensor, feat_teacher: Tensor) -> Tensor:
    """||G_S - G_T||_F^2 / N^2 with G = `similarity`.

    Args:
        feat_student, feat_teacher: [N, C, H, W] and [N, C', H', W'], unbounded; only N need be
            equal.
    Returns:
        scalar, at least 0.
    Source: arXiv 1907.09682, eq. 2 to 4.
    """
    with full_precision(feat_student):
        return F.mse_loss(similarity(feat_student), similarity(feat_teacher))


@METHODS.register("SP", config=CONFIG, allowed=ALLOWED)
class SP(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * `sp_loss` of the last maps; nothing trainable beside the
    student.
    """

    needs_whole_batch = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.ce_weight = cfg.SP.LOSS.CE_WEIGHT
        self.feat_weight = cfg.SP.LOSS.FEAT_WEIGHT

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        distance = sp_loss(feats_student["feats"][-1], feats_teacher["feats"][-1])
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * distance,
        }

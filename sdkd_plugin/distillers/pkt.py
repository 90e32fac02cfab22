"""PKT: how probably one image of a batch is another's neighbour, alike in both networks (Passalis,
Tefas, ECCV 2018).
"""

from typing import Any

import torch
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
from sdkd_plugin.registry import METHODS

CONFIG = {
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        # weight of the divergence, which is divided by the squared batch size
        "FEAT_WEIGHT": 30000.0,
    },
}
ALLOWED = {"LOSS.CE_WEIGHT": AtLeast(0), "LOSS.FEAT_WEIGHT": AtLeast(0)}
EPS = 1e-7  # of the authors' code; added to lengths and probabilities


def neighbours(feat: Tensor) -> Tensor:
    """P: (cosine + 1) / 2 of each pair, an image with itself too, divided by the row's sum.

    Args:
        feat: [N, D], unbounded.
    Returns:
        [N, N], at least 0, rows of sum 1.
    """
    feat = at_least_float32(feat)  # [N, D]
    # DIFF 1: a norm with a gradient at 0, where the reference codes' root of a sum has NaN
    rows = feat / (torch.linalg.vector_norm(feat, dim=1, keepdim=True) + EPS)  # [N, D]
    # DIFF 2: rounding can carry it below 0
    similarity = ((rows @ rows.T + 1) / 2).clamp_min(0)  # [N, N]
    return similarity / similarity.sum(1, keepdim=True)


def pkt_loss(feat_student: Tensor, feat_teacher: Tensor) -> Tensor:
    """mean over i, j of P_T log((P_T + EPS) / (P_S + EPS)) with P = `neighbours`.

    Args:
        feat_student, feat_teacher: [N, D] and [N, D'], unbounded.
    Returns:
        scalar, at least 0 up to EPS; 1 / N times the divergence of a row.
    Source: arXiv 1803.10837, eq. 4 to 6 with the authors' mean over all N^2 entries.
    """
    with full_precision(feat_student):
        student = neighbours(feat_student)  # [N, N]
        teacher = neighbours(feat_teacher)  # [N, N]
        return (teacher * ((teacher + EPS) / (student + EPS)).log()).mean()


@METHODS.register("PKT", config=CONFIG, allowed=ALLOWED)
class PKT(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * `pkt_loss` of the pooled features; nothing trainable beside
    the student.
    """

    needs_whole_batch = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.ce_weight = cfg.PKT.LOSS.CE_WEIGHT
        self.feat_weight = cfg.PKT.LOSS.FEAT_WEIGHT

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        divergence = pkt_loss(feats_student["pooled_feat"], feats_teacher["pooled_feat"])
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * divergence,
        }

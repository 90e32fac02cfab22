"""CC: correlation congruence, how a batch's embeddings relate in both networks (Peng et al., ICCV
2019, arXiv 1904.01802).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast, OneOf
from sdkd_plugin.distillers.base import (
    Distiller,
    Step,
    add_up,
    at_least_float32,
    cross_entropy,
    full_precision,
)
from sdkd_plugin.distillers.maps import unit
from sdkd_plugin.models.probe import pooled_dim
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    "FEAT_WEIGHT": 0.02,  # weight of the correlations' loss; 100 is usual for "rbf"
    # neighbour: the code behind the published tables (RepDistiller) | rbf: the paper's kernel
    "VARIANT": "neighbour",
    "FEAT_DIM": 128,  # "neighbour": length of both embeddings
    "GAMMA": 0.4,  # "rbf": the kernel is exp(-GAMMA |a - b|^2)
    "P": 2,  # "rbf": order of its Taylor series; of order 0 all pairs would be alike
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "FEAT_WEIGHT": AtLeast(0),
    "VARIANT": OneOf(("neighbour", "rbf"), "variant"),
    "FEAT_DIM": AtLeast(1),
    "GAMMA": Above(0),
    "P": AtLeast(1),
}


def neighbour_loss(emb_student: Tensor, emb_teacher: Tensor) -> Tensor:
    """1 / (N - 1) sum_i Delta_i . Delta_(i+1), Delta = |e_S - e_T|: errors of successive images of
    the batch, multiplied.

    Args:
        emb_student, emb_teacher: [N, D], unbounded.
    Returns:
        scalar, at least 0; 0 for a single image.
    Source: RepDistiller b84f547, which has it from the paper's authors.
    """
    delta = (at_least_float32(emb_student) - at_least_float32(emb_teacher)).abs()  # [N, D]
    # DIFF 1: a batch of one gives NaN there
    return (delta[:-1] * delta[1:]).sum() / max(len(delta) - 1, 1)


def rbf_loss(feat_student: Tensor, feat_teacher: Tensor, gamma: float, order: int) -> Tensor:
    """mean over i, j of (K_S - K_T)^2, K_ij = e^(-2 gamma) sum_(p <= order) (2 gamma)^p / p! (u_i .
    u_j)^p.

    u are the vectors divided by their length; the series tends to the Gaussian kernel exp(-gamma
    |u_i - u_j|^2).

    Args:
        feat_student, feat_teacher: [N, D] and [N, D'], unbounded.
        gamma: above 0.
        order: of the series, at least 1.
    Returns:
        scalar, at least 0.
    Source: arXiv 1904.01802, section 3.3 (equal order and the mean as in
    AberHu/Knowledge-Distillation-Zoo 65470c8).
    """
    with full_precision(feat_student):
        student = _kernel(feat_student, gamma, order)  # [N, N]
        teacher = _kernel(feat_teacher, gamma, order)  # [N, N]
        return F.mse_loss(student, teacher)


def _kernel(feat: Tensor, gamma: float, order: int) -> Tensor:
    rows = unit(at_least_float32(feat))  # [N, D]
    cosine = rows @ rows.T  # [N, N]
    series = ((2 * gamma * cosine) ** p / math.factorial(p) for p in range(order + 1))
    return math.exp(-2 * gamma) * add_up(series)


@METHODS.register("CC", config=CONFIG, allowed=ALLOWED)
class CC(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * `neighbour_loss` or `rbf_loss` of the pooled features.

    "neighbour" trains two linear embeddings beside the student, "rbf" nothing.
    """

    needs_whole_batch = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.CC
        if self.node.VARIANT == "neighbour":
            self.embed_s = nn.Linear(pooled_dim(student), self.node.FEAT_DIM)
            self.embed_t = nn.Linear(pooled_dim(teacher), self.node.FEAT_DIM)

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        pooled_student = feats_student["pooled_feat"]  # [N, D_S]
        pooled_teacher = feats_teacher["pooled_feat"]  # [N, D_T]
        if self.node.VARIANT == "neighbour":
            loss = neighbour_loss(self.embed_s(pooled_student), self.embed_t(pooled_teacher))
        else:
            loss = rbf_loss(pooled_student, pooled_teacher, self.node.GAMMA, self.node.P)

        return logits_student, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": self.node.FEAT_WEIGHT * loss,
        }

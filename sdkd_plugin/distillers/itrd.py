"""ITRD: features that correlate with the teacher's, channel by channel, and images that lie to each
other as they do there (Miles, Lopez-Rodriguez, Mikolajczyk, BMVC 2022, arXiv 2112.00459).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast
from sdkd_plugin.distillers.base import (
    Distiller,
    Step,
    at_least_float32,
    cross_entropy,
    full_precision,
)
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.probe import pooled_dim
from sdkd_plugin.registry import METHODS

# those of the one command in the authors' README, for wrn_40_2/wrn_16_2
CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    "CORR_WEIGHT": 2.0,  # weight of L_corr
    "MUTUAL_WEIGHT": 1.0,  # weight of L_mutual; 0.05 is the default of the authors' script
    "ALPHA": 1.01,  # order of Renyi's entropy in L_corr; 1.5 is the default of the authors' script
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "CORR_WEIGHT": AtLeast(0),
    "MUTUAL_WEIGHT": AtLeast(0),
    "ALPHA": Above(0),
}
EPS = 1e-12  # smallest variance and smallest trace to divide by


def correlation_loss(emb_student: Tensor, feat_teacher: Tensor, alpha: float) -> Tensor:
    """L_corr = log2 sum over channels d of |1 - c_d|^(2 alpha), with c_d the correlation of channel
    d over the batch.

    Channels have mean 0 and, with N - 1 in its denominator, variance 1, but c_d is divided by N: it
    is at most 1 - 1 / N, and the logarithm is finite.

    Args:
        emb_student, feat_teacher: [N, D], unbounded; gradients flow to both.
        alpha: order, above 0.
    Returns:
        scalar, from log2 D - 2 alpha log2 N, which may be below 0, to log2 D + 2 alpha.
    Raises:
        UserError: alpha is not above 0, or the two shapes differ.
    Source: arXiv 2112.00459; N and N - 1 as in the authors' code (ITRD 5d08c6b).
    """
    if not alpha > 0:
        raise UserError(f"ITRD's order alpha is {alpha}; allowed: above 0; set ITRD.ALPHA")
    if emb_student.shape != feat_teacher.shape:
        shapes = f"{list(emb_student.shape)} and {list(feat_teacher.shape)}"
        raise UserError(
            f"ITRD got features of shapes {shapes}; both must be [N, D] for the same D channels"
        )

    student = standardised(emb_student)  # [N, D]
    teacher = standardised(feat_teacher)  # [N, D]
    correlation = (student * teacher).mean(0)  # [D]
    # DIFF 1: in log space, so that no order underflows; 1 - c is at least 1 / N
    return (2 * alpha * (1 - correlation).log()).logsumexp(0) / math.log(2)


def standardised(feat: Tensor) -> Tensor:
    """Each channel with mean 0 and variance 1 over the batch, N - 1 in the denominator.

    Args:
        feat: [N, D], unbounded.
    Returns:
        [N, D]; zeros where a channel is the same for all images, as it is for a single one.
    """
    feat = at_least_float32(feat)  # [N, D]
    centred = feat - feat.mean(0)  # [N, D]
    variance = centred.square().sum(0) / max(len(feat) - 1, 1)  # [D]
    # DIFF 2: a constant channel, as a dead one of the teacher is, has correlation 0 and no gradient
    return centred * variance.clamp_min(EPS).rsqrt()


def mutual_loss(feat_student: Tensor, feat_teacher: Tensor) -> Tensor:
    """L_mutual = |G_S / tr G_S|^2 - |G_ST / tr G_ST|^2, with G the cosines of all pairs of images,
    G_ST = G_S * G_T entry by entry, and |.|^2 the sum of squares.

    Args:
        feat_student, feat_teacher: [N, D_S] and [N, D_T], unbounded; gradients flow to both.
    Returns:
        scalar from 0, where |G_T| is 1 wherever G_S is not 0, to 1 - 1 / N.
    Raises:
        UserError: the two are of different images, by their number.
    Source: arXiv 2112.00459; without a logarithm as in the authors' code (ITRD 5d08c6b).
    """
    if len(feat_student) != len(feat_teacher):
        shapes = f"{list(feat_student.shape)} and {list(feat_teacher.shape)}"
        raise UserError(
            f"ITRD got features of shapes {shapes}; both must be [N, ...] for the same N images"
        )
    student = _cosines(feat_student)  # [N, N]
    joint = student * _cosines(feat_teacher)  # [N, N]
    return (_of_trace_1(student).square() - _of_trace_1(joint).square()).sum()


def _cosines(feat: Tensor) -> Tensor:
    rows = F.normalize(at_least_float32(feat))  # [N, D]
    return rows @ rows.T  # [N, N]


def _of_trace_1(gram: Tensor) -> Tensor:
    # DIFF 3: 0, where no image has features, stays 0
    return gram / gram.trace().clamp_min(EPS)


@METHODS.register("ITRD", config=CONFIG, allowed=ALLOWED)
class ITRD(Distiller):
    """CE_WEIGHT * CE + CORR_WEIGHT * L_corr + MUTUAL_WEIGHT * L_mutual of the pooled features.

    Trains a linear embedding, from the student's to the teacher's number of channels, beside the
    student.
    """

    needs_whole_batch = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.ITRD
        self.embed = nn.Linear(pooled_dim(student), pooled_dim(teacher))

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        with full_precision(image):
            pooled_student = at_least_float32(feats_student["pooled_feat"])  # [N, D_S]
            pooled_teacher = at_least_float32(feats_teacher["pooled_feat"])  # [N, D_T]
            embedded = self.embed(pooled_student)  # [N, D_T]
            correlation = correlation_loss(embedded, pooled_teacher, self.node.ALPHA)
            # as the authors do it, though cosines need no equal numbers of channels
            alike = pooled_student.shape == pooled_teacher.shape
            mutual = mutual_loss(pooled_student if alike else embedded, pooled_teacher)

        self.terms = {"itrd_corr": correlation.detach(), "itrd_mutual": mutual.detach()}
        return logits_student, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": self.node.CORR_WEIGHT * correlation + self.node.MUTUAL_WEIGHT * mutual,
        }

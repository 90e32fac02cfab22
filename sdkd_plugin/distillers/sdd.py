"""SDD: the logits of regions of the image, not of its whole alone, as the teacher has them (Wei,
Luo, Luo, CVPR 2024, arXiv 2403.13512).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast, Between, Numbers, OneOf
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import (
    Distiller,
    Step,
    at_least_float32,
    cross_entropy,
    full_precision,
)
from sdkd_plugin.distillers.dkd import check_target, split_target, warmup_factor
from sdkd_plugin.distillers.kd import check_logits
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS

CONFIG = {
    "LOSS": "dkd",  # of each region's logits: kd | dkd; each has a node below
    "M": [1, 2, 4],  # the image is cut into M x M regions, for each of these
    "COMPLEMENTARY_WEIGHT": 2.0,  # of regions where the teacher is right and is not on the whole
    "KD": {
        "CE_WEIGHT": 0.1,  # weight of the cross entropy with the labels
        "KD_WEIGHT": 0.9,  # weight of tau^2 KL
        "TAU": 4.0,  # divides both logits
    },
    "DKD": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        "ALPHA": 1.0,  # weight of TCKD, the target part
        "BETA": 8.0,  # weight of NCKD, the non-target part
        "TAU": 4.0,  # divides both logits
        "WARMUP": 20,  # epochs over which both grow linearly to their full size; 0: from the start
    },
    **lskd.CONFIG,
}
ALLOWED = {
    "LOSS": OneOf(("kd", "dkd"), "loss"),
    "M": Numbers(
        "whole numbers from 1 to 64, such as [1, 2, 4], 1 first",
        Between(1, 64),
        whole=True,
        ascending=True,
        different=True,
    ),
    "COMPLEMENTARY_WEIGHT": AtLeast(0),
    "KD.CE_WEIGHT": AtLeast(0),
    "KD.KD_WEIGHT": AtLeast(0),
    "KD.TAU": Above(0),
    "DKD.CE_WEIGHT": AtLeast(0),
    "DKD.ALPHA": AtLeast(0),
    "DKD.BETA": AtLeast(0),
    "DKD.TAU": Above(0),
    "DKD.WARMUP": AtLeast(0),
    **lskd.ALLOWED,
}


def check_scales(cfg: CfgNode) -> None:
    """Raises UserError unless M begins with 1, the whole image, which tells what is consistent."""
    if not cfg.SDD.M or cfg.SDD.M[0] != 1:
        raise UserError(f"SDD.M is {cfg.SDD.M}; allowed: {ALLOWED['M']}")


def region_logits(head_in: Tensor, head: nn.Linear, scales: Sequence[int]) -> Tensor:
    """What the classifier says of the average of each region: for each m the map is cut into m x m
    regions.

    Args:
        head_in: [N, D, H, W], the map in front of the global average.
        head: D -> K; gradients flow to both.
        scales: m, from 1; a smaller map's pixels are repeated.
    Returns:
        [N, R, K], float32 or wider, with R the sum of m^2; in the order of `scales`, row by row.
    Source: arXiv 2403.13512, section 3.2.
    """
    head_in = at_least_float32(head_in)
    # DIFF 1: each from the map itself
    regions = [F.adaptive_avg_pool2d(head_in, m).flatten(2) for m in scales]
    cells = torch.cat(regions, dim=2).transpose(1, 2)  # [N, R, D]
    logits = F.linear(cells, head.weight.to(cells.dtype))  # [N, R, K]
    return logits if head.bias is None else logits + head.bias.to(cells.dtype)


def complementary(logits_teacher: Tensor, target: Tensor) -> Tensor:
    """Regions whose class the teacher finds where it does not for the whole image, or the other way
    round; the others are consistent.

    Args:
        logits_teacher: [N, R, K]; region 0 is the whole image.
        target: [N] int64 class numbers.
    Returns:
        [N, R] bool; False for region 0.
    Source: arXiv 2403.13512, section 3.3.
    """
    right = logits_teacher.argmax(2) == target.unsqueeze(1)  # [N, R]
    return right != right[:, :1]


def kd_rows(logits_student: Tensor, logits_teacher: Tensor, tau: float) -> Tensor:
    """tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)) of each row.

    Args:
        logits_student, logits_teacher: [..., K], unbounded.
        tau: temperature, above 0.
    Returns:
        [...], at least 0, float32 or wider; summed over classes.
    Raises:
        UserError: tau is not above 0, or the two shapes differ.
    """
    check_logits(logits_student, logits_teacher, tau)
    log_student = F.log_softmax(at_least_float32(logits_student) / tau, dim=-1)
    log_teacher = F.log_softmax(at_least_float32(logits_teacher) / tau, dim=-1)
    return tau**2 * F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)


def dkd_rows(
    logits_student: Tensor, logits_teacher: Tensor, target: Tensor, weights: CfgNode
) -> Tensor:
    """ALPHA * TCKD + BETA * NCKD of each region, as `dkd.dkd_terms` has them of an image.

    Args:
        logits_student, logits_teacher: [N, R, K], K >= 3.
        target: [N] int64 class numbers in 0..K-1.
        weights: the node SDD.DKD.
    Returns:
        [N, R], at least 0.
    Raises:
        UserError: fewer than three classes, a target that is no class number, a temperature that is
            not above 0, or the two shapes differ.
    """
    check_logits(logits_student, logits_teacher, weights.TAU)
    n, r, k = logits_student.shape
    check_target(target, torch.Size((n, k)), "SDD")  # DIFF 3
    of_region = target.repeat_interleave(r)  # [N * R]
    # DIFF 2: all in log space, where theirs takes the logarithm of a probability
    pair_student, others_student = split_target(
        logits_student.reshape(n * r, k), of_region, weights.TAU
    )
    pair_teacher, others_teacher = split_target(
        logits_teacher.reshape(n * r, k), of_region, weights.TAU
    )
    tckd = kd_rows(pair_student, pair_teacher, weights.TAU)  # [N * R]
    nckd = kd_rows(others_student, others_teacher, weights.TAU)  # [N * R]
    return (weights.ALPHA * tckd + weights.BETA * nckd).view(n, r)


def sdd_parts(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The consistent and the complementary part of the mean over all regions: they add up to it.

    Args:
        rows: [N, R], a loss for each region.
        others: [N, R] bool, see `complementary`.
    Returns:
        two scalars.
    """
    return rows.masked_fill(others, 0).mean(), rows.masked_fill(~others, 0).mean()


@METHODS.register(
    "SDD", config=CONFIG, allowed=ALLOWED, epoch_keys=("DKD.WARMUP",), rule=check_scales
)
class SDD(Distiller):
    """CE_WEIGHT * CE + consistent + COMPLEMENTARY_WEIGHT * complementary part of LOSS over regions;
    nothing trainable beside the student.
    """

    needs_model_extras = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.SDD

    def regions(self, network: Any, feats: dict[str, Any]) -> Tensor:
        """The network's logits of every region, [N, R, K]."""
        return region_logits(feats["head_in"], network.classifier_module(), self.node.M)

    def rows(
        self, logits_student: Tensor, logits_teacher: Tensor, target: Tensor, epoch: int
    ) -> Tensor:
        """LOSS of each region, weighted and warmed up, [N, R]."""
        seen = kl_logits(self.node.LOGIT_STANDARD, logits_student, logits_teacher)  # [N, R, K]
        if self.node.LOSS == "kd":
            kd = self.node.KD
            return kd.KD_WEIGHT * kd_rows(*seen, kd.TAU)
        factor = warmup_factor(epoch, self.node.DKD.WARMUP)
        return factor * dkd_rows(*seen, target, self.node.DKD)

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        node = self.node
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        with full_precision(image):
            of_student = self.regions(self.student, feats_student)  # [N, R, K]
            of_teacher = self.regions(self.teacher, feats_teacher)  # [N, R, K]
            rows = self.rows(of_student, of_teacher, target, epoch)
        consistent, complement = sdd_parts(rows, complementary(of_teacher, target))

        self.terms = {
            "sdd_consistent": consistent.detach(),
            "sdd_complementary": complement.detach(),
        }
        ce_weight = (node.KD if node.LOSS == "kd" else node.DKD).CE_WEIGHT
        return logits_student, {
            "loss_ce": ce_weight * cross_entropy(logits_student, target),
            "loss_kd": consistent + node.COMPLEMENTARY_WEIGHT * complement,
        }

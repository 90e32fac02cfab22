"""RLD: the teacher's confidence and its ranking below the label, both refined by the label (Sun et
al., ICCV 2025, arXiv 2408.07703).
"""

from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import Distiller, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.dkd import check_target, split_target, warmup_factor
from sdkd_plugin.distillers.kd import check_logits, kd_loss
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    "ALPHA": 1.0,  # weight of SCD, the confidence
    "BETA": 8.0,  # weight of MCD, the classes that the teacher ranks below the label
    "ALPHA_T": 1.0,  # temperature of SCD
    "T": 4.0,  # temperature of MCD
    # epochs over which both grow linearly to their full size; 0: full from the start
    "WARMUP": 20,
    **lskd.CONFIG,
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "ALPHA": AtLeast(0),
    "BETA": AtLeast(0),
    "ALPHA_T": Above(0),
    "T": Above(0),
    "WARMUP": AtLeast(0),
    **lskd.ALLOWED,
}
# a logit, once divided by the temperature, whose probability is 0 in float32 and float64: finite,
# so that a row in which every class has it is uniform, where -inf would make it NaN
MASKED = -1e9


def rld_terms(
    logits_student: Tensor, logits_teacher: Tensor, target: Tensor, alpha_tau: float, tau: float
) -> tuple[Tensor, Tensor]:
    """Sample confidence and masked correlation distillation; with a teacher that is right and both
    temperatures alike they are DKD's TCKD and NCKD.

    SCD = alpha_tau^2 KL((q_max, 1 - q_max) || (p_y, 1 - p_y)) with q_max the teacher's largest
    probability, whichever class has it, and p_y the student's of the label. MCD = tau^2 KL over the
    classes that the teacher ranks below the label, renormalised; 0 for an image with one or none.

    Args:
        logits_student, logits_teacher: [N, K], unbounded, K >= 3.
        target: [N] int64 class numbers in 0..K-1.
        alpha_tau: temperature of SCD, above 0.
        tau: temperature of MCD, above 0.
    Returns:
        SCD and MCD, scalars, at least 0; summed over classes, averaged over the batch.
    Raises:
        UserError: fewer than three classes (MCD would be 0 for all inputs), a target that is no
            class number, a temperature that is not above 0, or the two shapes differ.
    Source: arXiv 2408.07703; the authors' code (RLD d54578f) for what ties with the label.
    """
    check_logits(logits_student, logits_teacher, tau)
    check_target(target, logits_student.shape, "RLD")  # DIFF 2

    # DIFF 1: all in log space, where theirs takes the logarithm of a probability
    pair_student, _ = split_target(logits_student, target, alpha_tau)  # [N, 2]
    pair_teacher, _ = split_target(logits_teacher, logits_teacher.argmax(1), alpha_tau)  # [N, 2]
    scd = kd_loss(pair_student, pair_teacher, alpha_tau)

    # the label itself, what the teacher ranks above it, and what ties with it
    left_out = logits_teacher >= logits_teacher.gather(1, target.unsqueeze(1))  # [N, K]
    fill = MASKED * tau  # kd_loss divides it by tau
    below_student = at_least_float32(logits_student).masked_fill(left_out, fill)  # [N, K]
    below_teacher = at_least_float32(logits_teacher).masked_fill(left_out, fill)  # [N, K]
    mcd = kd_loss(below_student, below_teacher, tau)
    return scd, mcd


@METHODS.register("RLD", config=CONFIG, allowed=ALLOWED, epoch_keys=("WARMUP",))
class RLD(Distiller):
    """CE_WEIGHT * CE + min(epoch / WARMUP, 1) * (ALPHA * SCD + BETA * MCD); nothing trainable
    beside the student.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.RLD

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, _ = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)  # [N, K]

        node = self.node
        seen = kl_logits(node.LOGIT_STANDARD, logits_student, logits_teacher)  # [N, K] both
        scd, mcd = rld_terms(*seen, target, node.ALPHA_T, node.T)
        self.terms = {"scd": scd.detach(), "mcd": mcd.detach()}
        factor = warmup_factor(epoch, node.WARMUP)  # DIFF 3: 0 is allowed
        return logits_student, {
            "loss_ce": node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": factor * (node.ALPHA * scd + node.BETA * mcd),
        }

"""DKD: KD's KL split into its target and non-target part, weighted apart (Zhao et al., CVPR 2022,
arXiv 2203.08679).
"""

from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import Distiller, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    "ALPHA": 1.0,  # weight of TCKD, the target part
    "BETA": 8.0,  # weight of NCKD, the non-target part
    "T": 4.0,  # tau, divides both logits
    # epochs over which alpha and beta grow linearly to their full size; 0: full from the start
    "WARMUP": 20,
    **lskd.CONFIG,
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "ALPHA": AtLeast(0),
    "BETA": AtLeast(0),
    "T": Above(0),
    "WARMUP": AtLeast(0),
    **lskd.ALLOWED,
}


def dkd_terms(
    logits_student: Tensor, logits_teacher: Tensor, target: Tensor, tau: float
) -> tuple[Tensor, Tensor]:
    """Target-class and non-target-class KD, with KD = TCKD + (1 - p_target of the teacher) NCKD for
    every sample.

    TCKD = tau^2 KL over the pair (p_target, 1 - p_target); NCKD = tau^2 KL over the other K - 1
    classes, renormalised.

    Args:
        logits_student, logits_teacher: [N, K], unbounded, K >= 3.
        target: [N] int64 class numbers in 0..K-1.
        tau: temperature, above 0.
    Returns:
        TCKD and NCKD, scalars, averaged over the batch.
    Raises:
        UserError: fewer than three classes (NCKD would be 0 for all inputs), or a target that is no
            class number.
    Source: arXiv 2203.08679, section 3.
    """
    check_target(target, logits_student.shape)
    pair_student, others_student = split_target(logits_student, target, tau)
    pair_teacher, others_teacher = split_target(logits_teacher, target, tau)

    tckd = kd_loss(pair_student, pair_teacher, tau)
    nckd = kd_loss(others_student, others_teacher, tau)
    return tckd, nckd


def split_target(logits: Tensor, target: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Logits of the pair (target, any other class) and of the other classes alone.

    Softmax at tau of the pair [z_y, tau logsumexp_{j != y}(z_j / tau)] is exactly (p_y, 1 - p_y).

    Args:
        logits: [N, K].
        target: [N] int64.
        tau: temperature, above 0.
    Returns:
        [N, 2] and [N, K - 1].
    """
    logits = at_least_float32(logits)  # [N, K]
    target = target.unsqueeze(1)  # [N, 1]

    column = torch.arange(logits.shape[1] - 1, device=logits.device)  # [K - 1]
    # each row skips its target's column
    others = logits.gather(1, column + (column >= target))  # [N, K - 1]

    # DIFF 1: logsumexp of the others; log(1 - softmax) is -inf once the target leads by about 100
    rest = tau * torch.logsumexp(others / tau, dim=1, keepdim=True)  # [N, 1]
    return torch.cat([logits.gather(1, target), rest], dim=1), others


def check_target(target: Tensor, shape: torch.Size, method: str = "DKD") -> None:
    """Raises UserError, naming the method, unless target is [N] int64 in 0..K-1, and K >= 3, for
    logits [N, K].
    """
    n, k = shape
    if k < 3:  # DIFF 2
        raise UserError(
            f"{method} got logits for {k} classes; allowed: 3 or more, since with fewer its "
            "non-target part is 0"
        )
    if target.dtype != torch.int64 or target.shape != (n,):
        raise UserError(
            f"{method} got targets of type {target.dtype}, shape {list(target.shape)}; allowed: "
            f"torch.int64, shape [{n}]"
        )
    if target.is_cpu:  # elsewhere to look at them is to wait for the device
        check_labels(target, k, method)


def check_labels(target: Tensor, k: int, method: str = "DKD") -> None:
    """Raises UserError unless all labels of target [N] are in 0..k-1."""
    low, high = (int(v) for v in torch.aminmax(target))
    if low < 0 or high >= k:
        raise UserError(
            f"{method} got targets from {low} to {high}; allowed: class numbers from 0 to {k - 1}; "
            "check the labels"
        )


def warmup_factor(epoch: int, warmup: float) -> float:
    """min(epoch / warmup, 1), or 1 for a warmup of 0.

    Args:
        epoch: from 1.
        warmup: in epochs; not whole after scaling.
    """
    return min(epoch / warmup, 1.0) if warmup > 0 else 1.0  # DIFF 3: 0 is allowed


@METHODS.register("DKD", config=CONFIG, allowed=ALLOWED, epoch_keys=("WARMUP",))
class DKD(Distiller):
    """CE_WEIGHT * CE + min(epoch / WARMUP, 1) * (ALPHA * TCKD + BETA * NCKD); nothing trainable
    beside the student.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.tau = cfg.DKD.T
        self.ce_weight = cfg.DKD.CE_WEIGHT
        self.alpha = cfg.DKD.ALPHA
        self.beta = cfg.DKD.BETA
        self.warmup = cfg.DKD.WARMUP
        self.standard = cfg.DKD.LOGIT_STANDARD

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, _ = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)  # [N, K]

        seen = kl_logits(self.standard, logits_student, logits_teacher)  # [N, K] both
        tckd, nckd = dkd_terms(*seen, target, self.tau)
        self.terms = {"tckd": tckd.detach(), "nckd": nckd.detach()}
        factor = warmup_factor(epoch, self.warmup)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": factor * (self.alpha * tckd + self.beta * nckd),
        }

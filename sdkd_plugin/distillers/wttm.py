"""WTTM: TTM that listens more where the teacher is less sure (Zheng, Yang, ICLR 2024, arXiv
2402.11148).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import Distiller, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.kd import check_logits
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    "BETA": 4.0,  # weight of the weighted KL
    "GAMMA": 0.2,  # the power; 1 / GAMMA is the teacher's temperature
    **lskd.CONFIG,
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "BETA": AtLeast(0),
    "GAMMA": Above(0),
    **lskd.ALLOWED,
}


def wttm_terms(
    logits_student: Tensor, logits_teacher: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """For each image U = sum p_T^gamma and KL(p_T^gamma / U || p_S), p the probabilities at
    temperature 1.

    Args:
        logits_student, logits_teacher: [N, K], unbounded.
        gamma: above 0.
    Returns:
        U and the KL, both [N]; for gamma below 1 U goes from 1, the teacher sure of one class, to
        K^(1 - gamma), all classes alike. Their product's mean over the batch is the loss.
    Raises:
        UserError: gamma is not above 0, or the two shapes differ.
    Source: arXiv 2402.11148, section 4.
    """
    if not gamma > 0:
        raise UserError(f"the power gamma is {gamma}; allowed: above 0; set it in the node")
    check_logits(logits_student, logits_teacher, 1.0)

    # DIFF 1: in log space, where probabilities do not underflow
    log_student = F.log_softmax(at_least_float32(logits_student), dim=1)  # [N, K]
    powered = gamma * F.log_softmax(at_least_float32(logits_teacher), dim=1)  # [N, K]
    log_teacher = F.log_softmax(powered, dim=1)  # [N, K]
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return powered.logsumexp(1).exp(), divergence


@METHODS.register("WTTM", config=CONFIG, allowed=ALLOWED)
class WTTM(Distiller):
    """CE_WEIGHT * CE + BETA * mean of U times KL as in `wttm_terms`; nothing trainable beside the
    student.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.WTTM

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, _ = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)  # [N, K]

        seen = kl_logits(self.node.LOGIT_STANDARD, logits_student, logits_teacher)  # [N, K] both
        weight, divergence = wttm_terms(*seen, self.node.GAMMA)  # [N] both
        self.terms = {"weight": weight.mean().detach(), "kl": divergence.mean().detach()}
        return logits_student, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": self.node.BETA * (weight * divergence).mean(),
        }

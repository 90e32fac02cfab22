"""TTM: the student at temperature 1 imitates the teacher's probabilities to a power (Zheng, Yang,
ICLR 2024, arXiv 2402.11148).
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
    "BETA": 45.0,  # weight of the KL
    "GAMMA": 0.1,  # the power; 1 / GAMMA is the teacher's temperature
    **lskd.CONFIG,
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "BETA": AtLeast(0),
    "GAMMA": Above(0),
    **lskd.ALLOWED,
}


def ttm_loss(logits_student: Tensor, logits_teacher: Tensor, gamma: float) -> Tensor:
    """KL(p_T^gamma / sum p_T^gamma || p_S), p the probabilities at temperature 1.

    Args:
        logits_student, logits_teacher: [N, K], unbounded.
        gamma: above 0.
    Returns:
        scalar, at least 0; summed over classes, averaged over the batch.
    Raises:
        UserError: gamma is not above 0, or the two shapes differ.
    Source: arXiv 2402.11148, section 3.
    """
    if not gamma > 0:
        raise UserError(f"the power gamma is {gamma}; allowed: above 0; set it in the node")
    # DIFF 1: gamma times the logits, the same without the probabilities, which underflow
    return kd_loss(logits_student, gamma * at_least_float32(logits_teacher), 1.0)


@METHODS.register("TTM", config=CONFIG, allowed=ALLOWED)
class TTM(Distiller):
    """CE_WEIGHT * CE + BETA * `ttm_loss`; nothing trainable beside the student."""

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.TTM

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, _ = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)  # [N, K]

        seen = kl_logits(self.node.LOGIT_STANDARD, logits_student, logits_teacher)  # [N, K] both
        return logits_student, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": self.node.BETA * ttm_loss(*seen, self.node.GAMMA),
        }

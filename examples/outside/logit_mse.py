"""LOGITMSE: the student's logits imitate the teacher's by their squared difference (Ba and Caruana
2014, arXiv 1312.6184; Kim et al. 2021, arXiv 2105.08919, compare it with KL).
"""

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import AtLeast
from sdkd_plugin.distillers.base import Distiller, at_least_float32, cross_entropy
from sdkd_plugin.distillers.kd import check_logits
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 0.1,  # weight of the cross entropy with the labels
    "MSE_WEIGHT": 0.9,  # weight of the squared difference
}
ALLOWED = {"CE_WEIGHT": AtLeast(0), "MSE_WEIGHT": AtLeast(0)}


def logit_mse_loss(logits_student: Tensor, logits_teacher: Tensor) -> Tensor:
    """(z_S - z_T)^2 of logits [N, K], averaged over samples and classes; a scalar, at least 0.

    Raises:
        UserError: the logits have different shapes.
    """
    check_logits(logits_student, logits_teacher, 1.0)
    difference = at_least_float32(logits_student) - at_least_float32(logits_teacher)
    return difference.square().mean()


@METHODS.register("LOGITMSE", config=CONFIG, allowed=ALLOWED)
class LogitMSE(Distiller):
    """CE_WEIGHT * CE + MSE_WEIGHT * logit MSE; nothing trainable beside the student."""

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.LOGITMSE

    def forward_train(
        self, image: Tensor, target: Tensor, epoch: int = 1, **extras
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, _ = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)
        mse = logit_mse_loss(logits_student, logits_teacher)
        return logits_student, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": self.node.MSE_WEIGHT * mse,
        }

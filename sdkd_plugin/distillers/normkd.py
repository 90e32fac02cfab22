"""NormKD: KD whose temperature is each image's own, the deviation of its logits (Chi et al., 2023,
arXiv 2308.00520).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast
from sdkd_plugin.distillers.base import Distiller, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.kd import check_logits
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS

CONFIG = {
    "TEMPERATURE_NORM": 2.0,  # an image's temperature over the deviation of its logits
    "LOSS": {
        "CE_WEIGHT": 0.1,  # weight of the cross entropy with the labels
        "KD_WEIGHT": 0.9,  # weight of the KL
    },
}
ALLOWED = {
    "TEMPERATURE_NORM": Above(0),
    "LOSS.CE_WEIGHT": AtLeast(0),
    "LOSS.KD_WEIGHT": AtLeast(0),
}
LEAST = 1e-7  # deviation of logits that are all but equal


def normkd_loss(logits_student: Tensor, logits_teacher: Tensor, t_norm: float) -> Tensor:
    """Mean over images of t_T^2 KL(softmax(z_T / t_T) || softmax(z_S / t_S)), where each network's
    t is t_norm std(z) of its own logits.

    std has K - 1 in its denominator. The gradient flows through the student's.

    Args:
        logits_student, logits_teacher: [N, K], unbounded, K >= 2.
        t_norm: above 0.
    Returns:
        scalar, at least 0; summed over classes, averaged over the batch.
    Raises:
        UserError: t_norm is not above 0, the two shapes differ, or there is one class alone, which
            has no deviation.
    Source: arXiv 2308.00520; the factor t_T^2 as in the authors' code (NormKD 279371b).
    """
    check_logits(logits_student, logits_teacher, t_norm)
    if logits_student.shape[1] < 2:
        raise UserError("NORMKD got logits for 1 class; allowed: 2 or more, one has no deviation")

    student, _ = own_temperature(logits_student, t_norm)  # [N, K]
    teacher, temperature = own_temperature(logits_teacher, t_norm)  # [N, K], [N]
    logs = (F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1))  # [N, K] both
    divergence = F.kl_div(*logs, reduction="none", log_target=True).sum(1)  # [N]
    return (temperature.square() * divergence).mean()


def own_temperature(logits: Tensor, t_norm: float) -> tuple[Tensor, Tensor]:
    """Centred logits over t_norm times their deviation, and that divisor.

    Args:
        logits: [N, K].
        t_norm: above 0.
    Returns:
        [N, K] and [N], float32 or wider.
    """
    logits = at_least_float32(logits)
    # DIFF 1: a row of equal logits is uniform; without this bound, and without taking the mean
    # away, which no softmax notices, it would be 0 / 0
    temperature = t_norm * logits.std(1, keepdim=True).clamp_min(LEAST)  # [N, 1]
    return (logits - logits.mean(1, keepdim=True)) / temperature, temperature.squeeze(1)


@METHODS.register("NORMKD", config=CONFIG, allowed=ALLOWED)
class NormKD(Distiller):
    """CE_WEIGHT * CE + KD_WEIGHT * `normkd_loss`; nothing trainable beside the student."""

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.NORMKD

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, _ = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)  # [N, K]

        kd = normkd_loss(logits_student, logits_teacher, self.node.TEMPERATURE_NORM)
        return logits_student, {
            "loss_ce": self.node.LOSS.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": self.node.LOSS.KD_WEIGHT * kd,
        }

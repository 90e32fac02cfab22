"""KD: the student imitates the teacher's softened class probabilities (Hinton, Vinyals, Dean 2015,
arXiv 1503.02531).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import Distiller, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS

CONFIG = {
    "TEMPERATURE": 4.0,  # tau, divides both logits
    "LOSS": {
        "CE_WEIGHT": 0.1,  # weight of the cross entropy with the labels
        "KD_WEIGHT": 0.9,  # weight of tau^2 KL
    },
    **lskd.CONFIG,
}
ALLOWED = {
    "TEMPERATURE": Above(0),
    "LOSS.CE_WEIGHT": AtLeast(0),
    "LOSS.KD_WEIGHT": AtLeast(0),
    **lskd.ALLOWED,
}


def kd_loss(logits_student: Tensor, logits_teacher: Tensor, tau: float) -> Tensor:
    """tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)): sum over classes, mean over the batch.

    Everything stays in log space, in float32 or wider, so logit gaps of 500 give finite values and
    gradients.

    Args:
        logits_student: [N, K], unbounded.
        logits_teacher: [N, K], unbounded; gradients flow here too unless the caller detaches.
        tau: temperature, above 0.
    Returns:
        scalar, at least 0.
    Raises:
        UserError: tau is not above 0, or the two shapes differ.
    Source: arXiv 1503.02531, section 2 and 2.1 (tau^2 keeps the gradient's size independent of
    tau).
    """
    check_logits(logits_student, logits_teacher, tau)
    log_student = F.log_softmax(at_least_float32(logits_student) / tau, dim=1)  # [N, K]
    log_teacher = F.log_softmax(at_least_float32(logits_teacher) / tau, dim=1)  # [N, K]
    # "batchmean" divides by N alone; "mean" would divide by K too and make the loss K times weaker
    return tau**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def check_logits(logits_student: Tensor, logits_teacher: Tensor, tau: float) -> None:
    """Raises UserError unless tau is above 0 and both logits have one shape [..., K]."""
    if not tau > 0:
        raise UserError(
            f"the temperature tau is {tau}; allowed: above 0; set it in the method's config node"
        )
    if logits_student.shape != logits_teacher.shape:
        shapes = f"{list(logits_student.shape)} and {list(logits_teacher.shape)}"
        raise UserError(
            f"student and teacher logits have shapes {shapes}; both must be [N, K] for the same K "
            "classes"
        )


@METHODS.register("KD", config=CONFIG, allowed=ALLOWED)
class KD(Distiller):
    """CE_WEIGHT * CE + KD_WEIGHT * tau^2 KL; nothing trainable beside the student."""

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.tau = cfg.KD.TEMPERATURE
        self.ce_weight = cfg.KD.LOSS.CE_WEIGHT
        self.kd_weight = cfg.KD.LOSS.KD_WEIGHT
        self.standard = cfg.KD.LOGIT_STANDARD

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, _ = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)  # [N, K]

        seen = kl_logits(self.standard, logits_student, logits_teacher)  # [N, K] both
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.kd_weight * kd_loss(*seen, self.tau),
        }

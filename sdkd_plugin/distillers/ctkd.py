"""CTKD: KD whose temperature learns, too, against the student (Li et al., AAAI 2023, arXiv
2211.16231).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import Distiller, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 0.1,  # weight of the cross entropy with the labels
    "KD_WEIGHT": 0.9,  # weight of tau^2 KL
    "TAU_INIT": 1.0,  # the lowest temperature
    "TAU_RANGE": 20.0,  # how far above it the temperature can get
    "LAMBDA_MIN": 0.0,  # how hard the temperature works against the student, before epoch 1
    "LAMBDA_MAX": 1.0,  # and from epoch LAMBDA_EPOCHS on
    # epochs over which lambda grows along half a cosine; 0: it is LAMBDA_MAX from the start
    "LAMBDA_EPOCHS": 10,
    **lskd.CONFIG,
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "KD_WEIGHT": AtLeast(0),
    "TAU_INIT": Above(0),
    "TAU_RANGE": AtLeast(0),
    "LAMBDA_MIN": AtLeast(0),
    "LAMBDA_MAX": AtLeast(0),
    "LAMBDA_EPOCHS": AtLeast(0),
    **lskd.ALLOWED,
}
THETA_START = 1.0  # of the authors' code: the first temperature is TAU_INIT + 0.73 TAU_RANGE


def ctkd_loss(logits_student: Tensor, logits_teacher: Tensor, tau: Tensor) -> Tensor:
    """tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)): sum over classes, mean over the batch;
    `kd_loss` with a temperature that gets a gradient, the factor tau^2 included.

    Args:
        logits_student, logits_teacher: [N, K], unbounded.
        tau: scalar, above 0, which is not checked: to look at it is to wait for the device.
    Returns:
        scalar, at least 0.
    Raises:
        UserError: the two shapes differ.
    Source: arXiv 2211.16231.
    """
    student = at_least_float32(logits_student) / tau  # [N, K]
    teacher = at_least_float32(logits_teacher) / tau  # [N, K]
    return tau.square() * kd_loss(student, teacher, 1.0)


def curriculum(epoch: int, epochs: float, low: float, high: float) -> float:
    """lambda = low + (high - low) (1 - cos(pi min(epoch / epochs, 1))) / 2, or high for 0 epochs.

    Args:
        epoch: from 1.
        epochs: from which epoch on lambda is `high`; not whole after scaling.
        low, high: at the beginning and at the end.
    Returns:
        from `low` to `high`, no unit.
    Source: arXiv 2211.16231; the authors' code has -lambda.
    """
    part = min(epoch / epochs, 1.0) if epochs > 0 else 1.0  # DIFF 1: 0 is allowed
    return low + (high - low) * (1 - math.cos(math.pi * part)) / 2


def reversed_gradient(x: Tensor, factor: float) -> Tensor:
    """x, whose gradient arrives times -factor: what minimises the loss elsewhere maximises it here.

    Args:
        x: any shape.
        factor: lambda, at least 0.
    Returns:
        a tensor equal to x.
    Source: Ganin, Lempitsky 2015, arXiv 1409.7495.
    """
    return _Reversed.apply(x, factor)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * grad, None


@METHODS.register("CTKD", config=CONFIG, allowed=ALLOWED, epoch_keys=("LAMBDA_EPOCHS",))
class CTKD(Distiller):
    """CE_WEIGHT * CE + KD_WEIGHT * tau^2 KL with tau = TAU_INIT + TAU_RANGE * sigmoid(theta).

    Trains the number theta beside the student, with lambda times the gradient, reversed.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.CTKD
        self.theta = nn.Parameter(torch.tensor(THETA_START))

    def temperature(self, epoch: int) -> Tensor:
        """tau, a scalar, whose gradient in this epoch reaches theta reversed."""
        node = self.node
        factor = curriculum(epoch, node.LAMBDA_EPOCHS, node.LAMBDA_MIN, node.LAMBDA_MAX)
        return node.TAU_INIT + node.TAU_RANGE * reversed_gradient(self.theta, factor).sigmoid()

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, _ = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)  # [N, K]

        tau = self.temperature(epoch)
        seen = kl_logits(self.node.LOGIT_STANDARD, logits_student, logits_teacher)  # [N, K] both
        kd = ctkd_loss(*seen, tau)
        self.terms = {"kd": kd.detach(), "tau": tau.detach()}
        return logits_student, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": self.node.KD_WEIGHT * kd,
        }

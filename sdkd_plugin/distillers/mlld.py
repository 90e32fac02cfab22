"""MLLD: logits that agree with the teacher's image by image, between the images of a batch and
between classes, on two views of each image (Jin, Wang, Lin, CVPR 2023).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast, Numbers
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import (
    Distiller,
    Step,
    add_up,
    at_least_float32,
    cross_entropy,
    full_precision,
)
from sdkd_plugin.distillers.kd import check_logits, kd_loss
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 0.1,  # weight of the cross entropy with the labels, of each view
    "KD_WEIGHT": 0.9,  # weight of the instance level, the KL
    "BATCH_WEIGHT": 0.9,  # weight of the batch level
    "CLASS_WEIGHT": 0.9,  # weight of the class level
    "TAUS": [4.0, 3.0, 5.0],  # temperatures at which the KL of both views counts
    "TAUS_WEAK": [2.0, 6.0],  # of the weak view alone, where the KL counts whole once more
    **lskd.CONFIG,
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "KD_WEIGHT": AtLeast(0),
    "BATCH_WEIGHT": AtLeast(0),
    "CLASS_WEIGHT": AtLeast(0),
    "TAUS": Numbers("temperatures above 0, such as [4.0, 3.0, 5.0]", Above(0)),
    "TAUS_WEAK": Numbers("temperatures above 0, such as [2.0, 6.0], or []", Above(0)),
    **lskd.ALLOWED,
}


def check_taus(cfg: CfgNode) -> None:
    """Raises UserError where no temperature is left."""
    if not cfg.MLLD.TAUS:
        raise UserError(f"MLLD.TAUS is []; allowed: {ALLOWED['TAUS']}")


def unsure(confidence: Tensor) -> Tensor:
    """The share of values that are at most their median: 1/2 unless there are ties or their number
    is odd.

    Args:
        confidence: [n], without NaN.
    Returns:
        scalar in [1/2, 1]; no gradient.
    """
    confidence = at_least_float32(confidence.detach())
    return (confidence <= confidence.quantile(0.5)).to(confidence.dtype).mean()


def relation_losses(
    logits_student: Tensor, logits_teacher: Tensor, tau: float
) -> tuple[Tensor, Tensor]:
    """How images and how classes lie to each other, by their probabilities P [N, K] at tau.

    batch = |P_S P_S^T - P_T P_T^T|^2 / N;  class = |P_S^T P_S - P_T^T P_T|^2 / K;  |.|^2 the sum of
    squares.

    Args:
        logits_student, logits_teacher: [N, K], unbounded.
        tau: temperature, above 0.
    Returns:
        the two, scalars, at least 0.
    Raises:
        UserError: tau is not above 0, or the two shapes differ.
    Source: the authors' code (Multi-Level-Logit-Distillation 5ee473f).
    """
    check_logits(logits_student, logits_teacher, tau)
    n, k = logits_student.shape
    student = torch.softmax(at_least_float32(logits_student) / tau, dim=1)  # [N, K]
    teacher = torch.softmax(at_least_float32(logits_teacher) / tau, dim=1)  # [N, K]
    images = (student @ student.T - teacher @ teacher.T).square().sum() / n
    classes = (student.T @ student - teacher.T @ teacher).square().sum() / k
    return images, classes


def mlld_terms(
    weak: tuple[Tensor, Tensor],
    strong: tuple[Tensor, Tensor],
    taus: Sequence[float],
    taus_weak: Sequence[float],
    standard: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The instance, batch and class level of the loss.

    With T = taus, W = taus_weak, and s and c the share of images and of classes of which the
    teacher is at most as sure as of the median one, by its probabilities of the weak view at
    temperature 1:
    instance = s sum_{T, W} KL(weak) + sum_T KL(strong) + sum_W KL(weak), each KL times tau^2;
    batch = s sum_{T, W} batch(weak); class = c sum_{T, W} class(weak).

    Args:
        weak, strong: logits of student and teacher for this view, [N, K] each.
        taus, taus_weak: temperatures, above 0; of the first at least one.
        standard: whether every KL sees standardised logits, see `lskd`.
    Returns:
        the three, scalars, at least 0; the instance level is a mean over the batch.
    Raises:
        UserError: a temperature is not above 0, or a view's two shapes differ.
    Source: the authors' code (Multi-Level-Logit-Distillation 5ee473f).
    """
    probabilities = torch.softmax(at_least_float32(weak[1]), dim=1)  # [N, K]
    images = unsure(probabilities.amax(1))
    classes = unsure(probabilities.sum(0))

    every = [*taus, *taus_weak]
    weak_kl, strong_kl = (lskd.kl_logits(standard, *pair) for pair in (weak, strong))
    kl = {tau: kd_loss(*weak_kl, tau) for tau in every}  # DIFF 3: in log space
    instance = images * torch.stack([kl[tau] for tau in every]).sum()  # DIFF 1: their share
    whole = [kd_loss(*strong_kl, tau) for tau in taus] + [kl[tau] for tau in taus_weak]
    instance = instance + torch.stack(whole).sum()

    relations = [relation_losses(*weak, tau) for tau in every]
    batch = images * torch.stack([of_images for of_images, _ in relations]).sum()
    return instance, batch, classes * torch.stack([of_classes for _, of_classes in relations]).sum()


@METHODS.register("MLLD", config=CONFIG, allowed=ALLOWED, rule=check_taus)
class MLLD(Distiller):
    """CE_WEIGHT * CE of both views + KD_WEIGHT * instance + BATCH_WEIGHT * batch + CLASS_WEIGHT *
    class level.

    Nothing is trainable beside the student.
    """

    needs_whole_batch = True
    views = 2  # DIFF 2: the second by torchvision's RandAugment

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.MLLD

    def forward_train(
        self,
        image: Tensor,
        target: Tensor,
        epoch: int = 1,
        strong: Tensor | None = None,
        **extras: Any,
    ) -> Step:
        """As in `Distiller`, with `strong` [N, 3, H, W], the second view of the same images; the
        logits are the first view's.
        """
        assert strong is not None
        views = (image, strong)
        student = [self.student(view)[0] for view in views]  # [N, K] each
        with torch.no_grad():
            teacher = [self.teacher(view)[0] for view in views]  # [N, K] each

        node = self.node
        with full_precision(image):
            weak, strong_pair = zip(student, teacher, strict=True)
            standard = node.LOGIT_STANDARD
            levels = mlld_terms(weak, strong_pair, node.TAUS, node.TAUS_WEAK, standard)
        names = ("mlld_instance", "mlld_batch", "mlld_class")
        self.terms = {name: level.detach() for name, level in zip(names, levels, strict=True)}
        ce = cross_entropy(student[0], target) + cross_entropy(student[1], target)
        weights = (node.KD_WEIGHT, node.BATCH_WEIGHT, node.CLASS_WEIGHT)
        weighted = [weight * level for weight, level in zip(weights, levels, strict=True)]
        return student[0], {"loss_ce": node.CE_WEIGHT * ce, "loss_kd": add_up(weighted)}

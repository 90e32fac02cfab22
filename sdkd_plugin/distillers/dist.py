"""DIST: the student's probabilities correlate with the teacher's, image by image and class by class
(Huang et al., NeurIPS 2022, arXiv 2205.10536).
"""

from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast
from sdkd_plugin.distillers.base import Distiller, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.kd import check_logits
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    "BETA": 2.0,  # weight of the inter-class relation: within each image, over the classes
    "GAMMA": 2.0,  # weight of the intra-class relation: within each class, over the images
    "TAU": 4.0,  # temperature, divides both logits
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "BETA": AtLeast(0),
    "GAMMA": AtLeast(0),
    "TAU": Above(0),
}
EPS = 1e-8  # added to the product of the two deviations, as in the authors' code


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each row of a with that of b.

    Args:
        a, b: [R, M], unbounded.
    Returns:
        [R], from -1 to 1; 0 for a row that is constant.
    """
    a = a - a.mean(1, keepdim=True)  # [R, M]
    b = b - b.mean(1, keepdim=True)  # [R, M]
    lengths = torch.linalg.vector_norm(torch.stack([a, b]), dim=2)  # [2, R]
    return torch.linalg.vecdot(a, b) / (lengths.prod(0) + EPS)


def dist_terms(logits_student: Tensor, logits_teacher: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """tau^2 (1 - mean Pearson) of softmax(z / tau), over rows and over columns.

    Inter-class: one correlation for each image, over its K classes. Intra-class: one for each
    class, over the N images of the batch.

    Args:
        logits_student, logits_teacher: [N, K], unbounded.
        tau: temperature, above 0.
    Returns:
        the inter- and the intra-class term, scalars, from 0 to 2 tau^2.
    Raises:
        UserError: tau is not above 0, or the two shapes differ.
    Source: arXiv 2205.10536; tau^2 as in the authors' code (image_classification_sota 6f7a70a).
    """
    check_logits(logits_student, logits_teacher, tau)
    student = torch.softmax(at_least_float32(logits_student) / tau, dim=1)  # [N, K]
    teacher = torch.softmax(at_least_float32(logits_teacher) / tau, dim=1)  # [N, K]

    # DIFF 1: tau^2, as in the authors' code
    inter = tau**2 * (1 - pearson(student, teacher).mean())
    intra = tau**2 * (1 - pearson(student.T, teacher.T).mean())
    return inter, intra


@METHODS.register("DIST", config=CONFIG, allowed=ALLOWED)
class DIST(Distiller):
    """CE_WEIGHT * CE + BETA * inter-class + GAMMA * intra-class relation; nothing trainable beside
    the student.
    """

    needs_whole_batch = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.DIST

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, _ = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)  # [N, K]

        node = self.node
        inter, intra = dist_terms(logits_student, logits_teacher, node.TAU)
        self.terms = {"inter": inter.detach(), "intra": intra.detach()}
        return logits_student, {
            "loss_ce": node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": node.BETA * inter + node.GAMMA * intra,
        }

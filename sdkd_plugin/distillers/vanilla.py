"""NONE: the student alone, trained on the labels. Every comparison starts here."""

from typing import Any

from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.distillers.base import Distiller, Step, cross_entropy
from sdkd_plugin.registry import METHODS


@METHODS.register("NONE")
class Vanilla(Distiller):
    """Cross entropy with the labels; no teacher, no settings."""

    teacher_from = "none"
    splits_losses = False

    def __init__(self, student: nn.Module, teacher: None, cfg: CfgNode):
        super().__init__(student, teacher)

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, _ = self.student(image)  # [N, K]
        # DIFF 1: the loss is called loss_ce, as in every other method
        return logits_student, {"loss_ce": cross_entropy(logits_student, target)}

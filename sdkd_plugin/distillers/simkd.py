"""SimKD: the student learns the teacher's last map and takes over the teacher's classifier.

Source: Chen et al., CVPR 2022, arXiv 2203.14001.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import AtLeast
from sdkd_plugin.distillers.base import Distiller, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.maps import pool_to
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.base import CifarNet, Feats, conv_norm
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    # weight of the cross entropy of the deployed network's logits with the labels
    "CE_WEIGHT": 0.0,
    "FEAT_WEIGHT": 1.0,  # weight of the mean squared difference of the maps
    "FACTOR": 2,  # the teacher's channels over the projector's; at most the teacher's channels
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "FEAT_WEIGHT": AtLeast(0),
    "FACTOR": AtLeast(1),
}


def map_loss(projected: Tensor, map_teacher: Tensor) -> Tensor:
    """Mean squared difference over all elements, the teacher's map averaged to the student's size.

    Args:
        projected: [N, C, h, w], the student's map after the projector.
        map_teacher: [N, C, H, W], what the teacher's classifier averages.
    Returns:
        scalar, at least 0.
    Source: arXiv 2203.14001, equation 3.
    """
    goal = pool_to(at_least_float32(map_teacher), projected.shape[2:])  # [N, C, h, w]
    return F.mse_loss(at_least_float32(projected), goal)


def projector(channels: int, teacher_channels: int, factor: int) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolution, each with norm and ReLU; torch's own initialisation.

    Args:
        factor: the channels in between are the teacher's divided by it.
    """
    narrow = teacher_channels // factor
    steps = (
        conv_norm(channels, narrow, 1),
        conv_norm(narrow, narrow, 3),
        conv_norm(narrow, teacher_channels, 1),
    )
    return nn.Sequential(*(layer for step in steps for layer in (*step, nn.ReLU())))


class Reused(nn.Module):
    """What SimKD ships: the student without its head, the projector, the teacher's classifier.

    It shares their weights.

    Args:
        student: its own classifier is left out.
        projector: student's channels -> teacher's channels.
        classifier: the teacher's, D_T -> K.
        shrink: side of the student's map over side of the projected map, at least 1.
    """

    def __init__(
        self, student: CifarNet, projector: nn.Module, classifier: nn.Module, shrink: float
    ):
        super().__init__()
        self.backbone = copy.copy(student)
        self.backbone._modules = {
            name: child for name, child in student._modules.items() if name != student.head
        }
        self.projector = projector
        self.classifier = classifier
        self.shrink = shrink

    def forward(self, image: Tensor) -> tuple[Tensor, Feats]:
        feats, preact_feats, head_in = self.backbone.maps(image)  # head_in: [N, D_S, H, W]
        if self.shrink > 1:
            size = [math.ceil(side / self.shrink) for side in head_in.shape[2:]]
            head_in = pool_to(head_in, size)

        projected = self.projector(head_in)  # [N, D_T, h, w]
        pooled = projected.mean((2, 3))  # [N, D_T]
        return self.classifier(pooled), {
            "feats": feats,
            "preact_feats": preact_feats,
            "head_in": projected,
            "pooled_feat": pooled,
        }


@METHODS.register("SIMKD", config=CONFIG, allowed=ALLOWED)
class SimKD(Distiller):
    """FEAT_WEIGHT * MSE of the maps + CE_WEIGHT * CE.

    Trains the student but for its classifier, and a projector.
    """

    needs_model_extras = True
    student: CifarNet

    def __init__(self, student: CifarNet, teacher: CifarNet, cfg: CN):
        super().__init__(student, teacher)
        self.node = cfg.SIMKD
        if not hasattr(student, "head"):
            raise UserError(
                "SimKD puts the teacher's classifier in the place of the student's, which "
                f"{type(student).__name__} does not let go: choose a DISTILLER.STUDENT of "
                "sdkd_plugin.models"
            )
        own, theirs = (probe(net)[1]["head_in"].shape for net in (student, teacher))
        if self.node.FACTOR > theirs[1]:
            raise UserError(
                f"SIMKD.FACTOR is {self.node.FACTOR}; allowed: 1 to {theirs[1]}, the teacher's "
                "channels"
            )

        self.projector = projector(own[1], theirs[1], self.node.FACTOR)
        # DIFF 1: the authors' code runs the teacher for it at every test
        self.shrink = own[2] / theirs[2]

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        """All but the two classifiers: the student's own is not part of the network."""
        # DIFF 2: in the authors' code its gradient is zero, and weight decay shrinks it
        unused = set(getattr(self.student, self.student.head).parameters())
        return [p for p in super().get_learnable_parameters() if p not in unused]

    def deployed(self) -> nn.Module:
        return Reused(self.student, self.projector, self.teacher.classifier_module(), self.shrink)

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits, feats = self.deployed()(image)  # [N, K]
        with torch.no_grad():
            # DIFF 3: never negative, as the projected map
            map_teacher = self.teacher(image)[1]["head_in"]  # [N, D_T, H, W]
        # DIFF 4: the cross entropy is that of the network that ships
        return logits, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(logits, target),
            "loss_kd": self.node.FEAT_WEIGHT * map_loss(feats["head_in"], map_teacher),
        }

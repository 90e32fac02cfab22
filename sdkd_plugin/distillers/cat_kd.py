"""CAT-KD: where in the image the student sees each class, as the teacher does (Guo, Yan, Li, Lin,
CVPR 2023, arXiv 2304.12777).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Anything, AtLeast, Between
from sdkd_plugin.distillers.base import (
    Distiller,
    Step,
    at_least_float32,
    cross_entropy,
    full_precision,
)
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    "BETA": 400.0,  # weight of the maps' distance; the authors' files have one for each pair
    "RESOLUTION": 2,  # height and width to which the maps are averaged
    "NORMALIZE": True,  # whether each class's map is brought to length 1; off for equal families
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "BETA": AtLeast(0),
    "RESOLUTION": Between(1, 64),
    "NORMALIZE": Anything(),
}


def class_maps(head_in: Tensor, weight: Tensor) -> Tensor:
    """The classifier without its bias at every position: the average of a class's map and the bias
    are its logit.

    Args:
        head_in: [N, D, H, W], the map in front of the global average.
        weight: [K, D], the classifier's; gradients flow to both.
    Returns:
        [N, K, H, W], float32 or wider, unbounded.
    Source: arXiv 2304.12777, section 3.1.
    """
    head_in = at_least_float32(head_in)
    return F.conv2d(head_in, weight.to(head_in.dtype)[:, :, None, None])


def cat_loss(
    maps_student: Tensor, maps_teacher: Tensor, resolution: int, normalize: bool
) -> Tensor:
    """Mean over images, classes and cells of (A_S - A_T)^2, with A the maps averaged to
    resolution x resolution cells and, if `normalize`, each class's divided by its Euclidean length.

    Args:
        maps_student, maps_teacher: [N, K, H, W], of any two sizes; gradients flow to both.
        resolution: cells along height and width, from 1; a smaller map's pixels are repeated.
    Returns:
        scalar, at least 0; if `normalize` at most 4 / resolution^2.
    Raises:
        UserError: other images or classes, or a resolution below 1.
    Source: arXiv 2304.12777, section 3.2; mean and length as in the authors' code (CAT-KD 4467073).
    """
    if maps_student.shape[:2] != maps_teacher.shape[:2]:
        shapes = f"{list(maps_student.shape)} and {list(maps_teacher.shape)}"
        raise UserError(
            f"CAT-KD got class maps of shapes {shapes}; both must be [N, K, ...] for the same N "
            "images and K classes"
        )
    if resolution < 1:
        raise UserError(
            f"CAT-KD's resolution is {resolution}; allowed: 1 or more; set CAT_KD.RESOLUTION"
        )

    student, teacher = (
        F.adaptive_avg_pool2d(at_least_float32(maps), resolution).flatten(2)  # [N, K, cells]
        for maps in (maps_student, maps_teacher)
    )
    if normalize:
        student = F.normalize(student, dim=2)
        teacher = F.normalize(teacher, dim=2)
    return F.mse_loss(student, teacher)


@METHODS.register("CAT_KD", config=CONFIG, allowed=ALLOWED)
class CATKD(Distiller):
    """CE_WEIGHT * CE + BETA * `cat_loss`; nothing trainable beside the student."""

    needs_model_extras = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.CAT_KD

    def maps(self, network: Any, feats: dict[str, Any]) -> Tensor:
        """The network's class maps, averaged to RESOLUTION, [N, K, R, R]."""
        # the average first: it is linear, as the classifier is, and leaves it fewer positions
        cells = F.adaptive_avg_pool2d(at_least_float32(feats["head_in"]), self.node.RESOLUTION)
        return class_maps(cells, network.classifier_module().weight)

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        # DIFF 1, 2: both networks are as they are, with their bias and their own first weights
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        node = self.node
        with full_precision(image):
            cat = cat_loss(
                self.maps(self.student, feats_student),
                self.maps(self.teacher, feats_teacher),
                node.RESOLUTION,
                node.NORMALIZE,
            )
        self.terms = {"cat": cat.detach()}
        return logits_student, {
            "loss_ce": node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": node.BETA * cat,
        }

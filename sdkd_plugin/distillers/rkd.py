"""RKD: distances and angles between a batch's features agree in both networks.

Source: Park et al., CVPR 2019, arXiv 1904.05068.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, Anything, AtLeast
from sdkd_plugin.distillers.base import (
    Distiller,
    Step,
    at_least_float32,
    cross_entropy,
    full_precision,
)
from sdkd_plugin.registry import METHODS

CONFIG = {
    "DISTANCE_WEIGHT": 25.0,  # weight of the distances' loss
    "ANGLE_WEIGHT": 50.0,  # weight of the angles' loss
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        "FEAT_WEIGHT": 1.0,  # weight of both together
    },
    "PDIST": {
        "EPSILON": 1e-12,  # least squared distance of two images
        "SQUARED": False,  # whether squared distances are compared
    },
}
ALLOWED = {
    "DISTANCE_WEIGHT": AtLeast(0),
    "ANGLE_WEIGHT": AtLeast(0),
    "LOSS.CE_WEIGHT": AtLeast(0),
    "LOSS.FEAT_WEIGHT": AtLeast(0),
    "PDIST.EPSILON": Above(0),
    "PDIST.SQUARED": Anything(),
}


def relations(feat: Tensor, squared: bool, eps: float) -> tuple[Tensor, Tensor]:
    """Distances divided by their mean over i != j, and cosines of the angles at i between j and k.

    Args:
        feat: [N, D], unbounded.
        squared: whether distances are squared ones.
        eps: least squared distance, above 0; of closer images neither distance nor direction gets a
            gradient.
    Returns:
        [N, N] and [N, N, N].
    """
    feat = at_least_float32(feat)  # [N, D]
    # DIFF 1: differences, which the angles need anyway; |a|^2 + |b|^2 - 2 a.b would cancel digits
    difference = feat[None] - feat[:, None]  # [N, N, D]: from i to j
    squares = difference.square().sum(2)  # [N, N]
    lengths = squares.clamp_min(eps).sqrt()  # [N, N]

    same = torch.eye(len(feat), dtype=torch.bool, device=feat.device)  # [N, N]
    distance = torch.where(same, 0, squares.clamp_min(eps) if squared else lengths)  # [N, N]
    # DIFF 3: a batch of one gives 0, not NaN
    mean = distance.sum() / max(len(feat) * (len(feat) - 1), 1)
    relative = distance / mean.clamp_min(torch.finfo(feat.dtype).tiny)

    # DIFF 2: no direction between images closer than eps, to which F.normalize would hand 1e12
    # times the gradient
    inverse = torch.where(squares > eps, lengths.reciprocal(), 0)  # [N, N]
    direction = difference * inverse[:, :, None]  # [N, N, D]
    return relative, direction @ direction.mT


def rkd_losses(
    feat_student: Tensor, feat_teacher: Tensor, squared: bool = False, eps: float = 1e-12
) -> tuple[Tensor, Tensor]:
    """Smooth L1 (quadratic below 1) between both networks' `relations`: of distances, mean over
    N^2; of angles, over N^3.

    Args:
        feat_student, feat_teacher: [N, D] and [N, D'], unbounded; no gradient reaches the teacher.
        squared, eps: see `relations`.
    Returns:
        distance loss and angle loss, scalars, at least 0.
    Source: arXiv 1904.05068, eq. 4 to 9.
    """
    with full_precision(feat_student):
        with torch.no_grad():
            goals = relations(feat_teacher, squared, eps)
        own = relations(feat_student, squared, eps)
        distance = F.smooth_l1_loss(own[0], goals[0])
        angle = F.smooth_l1_loss(own[1], goals[1])
        return distance, angle


@METHODS.register("RKD", config=CONFIG, allowed=ALLOWED)
class RKD(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * (DISTANCE_WEIGHT * distances + ANGLE_WEIGHT * angles) of the
    pooled features.
    """

    needs_whole_batch = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.node = cfg.RKD

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        distance, angle = rkd_losses(
            feats_student["pooled_feat"],  # [N, D_S]
            feats_teacher["pooled_feat"],  # [N, D_T]
            self.node.PDIST.SQUARED,
            self.node.PDIST.EPSILON,
        )
        self.terms = {"rkd_distance": distance.detach(), "rkd_angle": angle.detach()}
        loss = self.node.DISTANCE_WEIGHT * distance + self.node.ANGLE_WEIGHT * angle
        return logits_student, {
            "loss_ce": self.node.LOSS.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": self.node.LOSS.FEAT_WEIGHT * loss,
        }

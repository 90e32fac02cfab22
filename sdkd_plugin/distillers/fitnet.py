"""FitNet: one of the student's maps, through a regressor, imitates the teacher's (Romero et al., ICLR 2015, arXiv 1412.6550)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.distillers.base import Distiller, at_least_float32, cross_entropy
from sdkd_plugin.distillers.maps import fitting_convolution, pool_pair
from sdkd_plugin.distillers.probe import probe
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS

CONFIG = {
    "HINT_LAYER": 2,  # which map of both networks: 0 is the stem's, 1 the first stage's
    "INPUT_SIZE": [32, 32],  # read by mdistiller only; here both maps are measured
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        "FEAT_WEIGHT": 100.0,  # weight of the maps' distance
    },
}


def fitnet_loss(regressed: Tensor, feat_teacher: Tensor) -> Tensor:
    """mean (r - F_T)^2 over batch, channels and positions; of different sizes, the larger map is average-pooled first.

    Args:
        regressed: [N, C, H, W], the student's map behind the regressor, unbounded.
        feat_teacher: [N, C, H', W'], unbounded.
    Returns:
        scalar, at least 0.
    Source: arXiv 1412.6550, eq. 3; the mean as in RepDistiller b84f547.
    """
    return F.mse_loss(*pool_pair(at_least_float32(regressed), at_least_float32(feat_teacher)))


def regressor(student: torch.Size, teacher: torch.Size) -> nn.Sequential:
    """Convolution, norm and ReLU from a student map [N, C, H, W] to the teacher's channels and, if it can be, its size."""
    convolution = fitting_convolution(student, teacher)
    if convolution is None:  # DIFF 2: keeps the student's size, to which the loss pools the teacher's map
        convolution = nn.Conv2d(student[1], teacher[1], kernel_size=3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher[1]), nn.ReLU())


@METHODS.register("FITNET", config=CONFIG)
class FitNet(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * `fitnet_loss`; trains a regressor beside the student."""  # DIFF 1: both at once

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        node = cfg.FITNET
        self.layer, self.ce_weight, self.feat_weight = node.HINT_LAYER, node.LOSS.CE_WEIGHT, node.LOSS.FEAT_WEIGHT
        # DIFF 3: measured in eval mode; mdistiller's probe moves the running statistics of both networks
        feats = [probe(net)[1]["feats"] for net in (student, teacher)]
        last = min(map(len, feats)) - 1
        if not 0 <= self.layer <= last:
            raise UserError(f"FITNET.HINT_LAYER is {self.layer}; allowed: 0 to {last}, the maps that both networks have")
        self.regressor = regressor(*(maps[self.layer].shape for maps in feats))

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feats_student = self.student(image)
        with torch.no_grad():
            feats_teacher = self.teacher(image)[1]
        regressed = self.regressor(feats_student["feats"][self.layer])
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * fitnet_loss(regressed, feats_teacher["feats"][self.layer]),
        }

"""FitNet: one of the student's maps, through a regressor, imitates the teacher's.

Source: Romero et al., ICLR 2015, arXiv 1412.6550.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Anything, AtLeast
from sdkd_plugin.distillers import feature_init, lskd
from sdkd_plugin.distillers.base import Distiller, Phase, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.feature_init import FeatureInit
from sdkd_plugin.distillers.maps import fitting_convolution, pool_pair
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    "HINT_LAYER": 2,  # which map of both networks: 0 is the stem's, 1 the first stage's
    "INPUT_SIZE": [32, 32],  # read by mdistiller only; here both maps are measured
    # 0: all losses at once; above 0 the paper's form: so many epochs of the maps' distance alone
    "INIT_EPOCHS": 0,
    "INIT_LR": 0.0,  # constant learning rate of those epochs; 0.0: SOLVER.LR
    "TAU": 4.0,  # temperature of the KD term, divides both logits
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        "FEAT_WEIGHT": 100.0,  # weight of the maps' distance
        # weight of KD's tau^2 KL; the paper has one, RepDistiller and mdistiller none
        "KD_WEIGHT": 0.0,
    },
    **lskd.CONFIG,
}
ALLOWED = {
    "HINT_LAYER": AtLeast(0),
    "INPUT_SIZE": Anything(),
    "LOSS.FEAT_WEIGHT": AtLeast(0),
    **feature_init.ALLOWED,
}


def fitnet_loss(regressed: Tensor, feat_teacher: Tensor) -> Tensor:
    """mean (r - F_T)^2 over batch, channels and positions, at the smaller of the two maps' sizes.

    Args:
        regressed: [N, C, H, W], the student's map behind the regressor, unbounded.
        feat_teacher: [N, C, H', W'], unbounded.
    Returns:
        scalar, at least 0.
    Source: arXiv 1412.6550, eq. 3; the mean as in RepDistiller b84f547.
    """
    # [N, C, H, W] both
    student, teacher = pool_pair(at_least_float32(regressed), at_least_float32(feat_teacher))
    return F.mse_loss(student, teacher)


def regressor(student: torch.Size, teacher: torch.Size) -> nn.Sequential:
    """Convolution, norm and ReLU to the teacher's channels and, if it can be, its size.

    Args:
        student, teacher: shapes [N, C, H, W].
    """
    convolution = fitting_convolution(student, teacher)
    if convolution is None:
        # DIFF 2: keeps the student's size, to which the loss pools the teacher's map
        convolution = nn.Conv2d(student[1], teacher[1], kernel_size=3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher[1]), nn.ReLU())


@METHODS.register(
    "FITNET",
    config=CONFIG,
    allowed=ALLOWED,
    epoch_keys=("INIT_EPOCHS",),
    idle={"INPUT_SIZE": None},
    renamed=feature_init.RENAMED,
)
class FitNet(FeatureInit):
    """CE_WEIGHT * CE + KD_WEIGHT * tau^2 KL + FEAT_WEIGHT * `fitnet_loss`.

    Trains a regressor beside the student. With INIT_EPOCHS the last term has a phase of its own,
    before the others, that trains the regressor and the student up to HINT_LAYER.
    """

    optional_phases = True

    splits_losses = True  # in its usual form; the loop tells of the two-phase one

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        node = cfg.FITNET
        # DIFF 3: measured in eval mode; mdistiller's probe moves the running statistics of both
        # networks
        feats = [probe(net)[1]["feats"] for net in (student, teacher)]
        last = min(map(len, feats)) - 1
        if node.HINT_LAYER > last:
            raise UserError(
                f"FITNET.HINT_LAYER is {node.HINT_LAYER}; allowed: 0 to {last}, the maps that both "
                "networks have"
            )

        super().__init__(student, teacher, "FITNET", node, node.HINT_LAYER)
        self.layer = node.HINT_LAYER
        self.feat_weight = node.LOSS.FEAT_WEIGHT
        self.phased = node.INIT_EPOCHS > 0
        self.regressor = regressor(*(maps[self.layer].shape for maps in feats))

    def init_loss(self, feats_student: dict, feats_teacher: dict) -> Tensor:
        regressed = self.regressor(feats_student["feats"][self.layer])  # [N, C_T, H, W]
        return self.feat_weight * fitnet_loss(regressed, feats_teacher["feats"][self.layer])

    def get_parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        if self.phased:
            return super().get_parameter_groups(phase)
        return Distiller.get_parameter_groups(self, phase)

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        if self.phased:
            return super().forward_train(image, target, epoch, **extras)

        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, feats_teacher = self.teacher(image)  # [N, K]

        loss_kd = self.init_loss(feats_student, feats_teacher)  # DIFF 1: all at once
        if self.kd_weight:
            loss_kd = loss_kd + self.kd_weight * self.kd(logits_student, logits_teacher)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": loss_kd,
        }

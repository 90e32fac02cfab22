"""FT: factor transfer; the student imitates a compressed form of the teacher's last map.

Source: Kim, Park, Kwak, NeurIPS 2018, arXiv 1802.04977.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast, OneOf
from sdkd_plugin.distillers.base import Distiller, Phase, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.feature_init import INIT, init_phase
from sdkd_plugin.distillers.maps import pool_pair, unit
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    "K": 0.5,  # channels of a factor as a share of the teacher's
    # what is compared: spatial: mean of f^2 over channels (RepDistiller) | full: f itself (paper)
    "PHI": "spatial",
    # epochs in which the paraphraser alone is trained, on top of SOLVER.EPOCHS; 0 leaves them out
    "INIT_EPOCHS": 30,
    "INIT_LR": 0.01,  # constant learning rate there; 0.0: SOLVER.LR
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        "FEAT_WEIGHT": 200.0,  # weight of the factors' distance
    },
}
ALLOWED = {
    "K": Above(0),
    "PHI": OneOf(("spatial", "full")),
    "INIT_EPOCHS": AtLeast(0),
    "INIT_LR": AtLeast(0),
    "LOSS.CE_WEIGHT": AtLeast(0),
    "LOSS.FEAT_WEIGHT": AtLeast(0),
}
SLOPE = 0.1  # of every leaky ReLU


def ft_loss(factor_student: Tensor, factor_teacher: Tensor, phi: str) -> Tensor:
    """mean |phi(f_S) - phi(f_T)|, where phi has rows of length 1 and is either way [N, P].

    "spatial": P = H W, the mean of f^2 over channels, after average pooling of the larger map to
    the smaller one's size; "full": P = C H W, f itself.

    Args:
        factor_student, factor_teacher: [N, C, H, W], unbounded; "full" needs equal shapes.
        phi: "spatial" or "full".
    Returns:
        scalar, at least 0; mean over the batch and the P entries.
    Source: arXiv 1802.04977 ("full"); "spatial" as in RepDistiller b84f547 (its p1 = 2, p2 = 1).
    """
    student = at_least_float32(factor_student)  # [N, C, H, W]
    teacher = at_least_float32(factor_teacher)  # [N, C, H', W']
    if phi == "spatial":
        student, teacher = (f.square().mean(1) for f in pool_pair(student, teacher))  # [N, H, W]
    # DIFF 2: a factor of zeros gets no gradient
    return F.l1_loss(unit(student.flatten(1)), unit(teacher.flatten(1)))


class Paraphraser(nn.Module):
    """Autoencoder of the teacher's last map, 3x3 convolutions at its size.

    Args:
        channels: of the map and of its reconstruction.
        factor: channels between them.
    """

    def __init__(self, channels: int, factor: int):
        super().__init__()
        down = (channels, channels, factor, factor)
        up = (factor, factor, channels, channels)
        self.encoder = nn.Sequential(*layers(nn.Conv2d, down))
        self.decoder = nn.Sequential(*layers(nn.ConvTranspose2d, up))

    def forward(self, feat: Tensor) -> Tensor:
        """The reconstruction [N, C, H, W]."""
        return self.decoder(self.encoder(feat))


def layers(
    convolution: type[nn.Module], widths: tuple[int, ...], norm: bool = False
) -> list[nn.Module]:
    """For each step from width to width a 3x3 convolution, a batch norm if `norm`, a leaky ReLU."""
    found: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        found.append(convolution(before, after, kernel_size=3, padding=1))
        if norm:
            found.append(nn.BatchNorm2d(after))
        found.append(nn.LeakyReLU(SLOPE, inplace=True))
    return found


@METHODS.register(
    "FT", config=CONFIG, allowed=ALLOWED, epoch_keys=("INIT_EPOCHS",), trainer="phases"
)
class FT(Distiller):
    """Phase "init": the paraphraser minimises mean (reconstruction - F_T)^2; phase "train":
    CE_WEIGHT * CE + FEAT_WEIGHT * `ft_loss` of the factors.

    Trains a translator beside the student, which makes a factor of the student's last map.
    """

    splits_losses = False

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        node = cfg.FT
        shape_s, shape_t = (probe(net)[1]["feats"][-1].shape for net in (student, teacher))

        factor = int(node.K * shape_t[1])
        if factor < 1:
            raise UserError(
                f"FT.K is {node.K}, which leaves none of {shape_t[1]} channels; allowed: "
                f"{1 / shape_t[1]:g} or more"
            )
        if node.PHI == "full" and shape_s[2:] != shape_t[2:]:
            raise UserError(
                f"FT.PHI 'full' needs last maps of one size, but the student has "
                f"{shape_s[2]}x{shape_s[3]} and the teacher {shape_t[2]}x{shape_t[3]}: set FT.PHI "
                "to 'spatial' or choose another DISTILLER.STUDENT"
            )

        self.phi = node.PHI
        self.ce_weight = node.LOSS.CE_WEIGHT
        self.feat_weight = node.LOSS.FEAT_WEIGHT
        self.paraphraser = Paraphraser(shape_t[1], factor)
        widths = (shape_s[1], shape_s[1], factor, factor)
        self.translator = nn.Sequential(*layers(nn.Conv2d, widths, norm=True))

    def phases(self, cfg: CfgNode) -> list[Phase]:
        return [*init_phase(cfg, "FT"), Phase("train", cfg.SOLVER.EPOCHS)]

    def get_parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        trained = [self.paraphraser] if phase.name == INIT else [self.student, self.translator]
        return [{"params": [p for module in trained for p in module.parameters()]}]

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        """As in `Distiller`, but phase "init" runs no student and returns the teacher's logits."""
        with torch.no_grad():
            logits_teacher, feats_teacher = self.teacher(image)  # [N, K]
        feat_teacher = feats_teacher["feats"][-1]  # [N, C_T, H, W]

        if self.phase is not None and self.phase.name == INIT:
            reconstruction = at_least_float32(self.paraphraser(feat_teacher))  # [N, C_T, H, W]
            loss = F.mse_loss(reconstruction, at_least_float32(feat_teacher))
            return logits_teacher, {"loss_kd": loss}

        logits_student, feats_student = self.student(image)  # [N, K]
        # DIFF 1: the reference code computes gradients of the paraphraser and never uses them
        with torch.no_grad():
            factor_teacher = self.paraphraser.encoder(feat_teacher)  # [N, C, H, W]
        factor_student = self.translator(feats_student["feats"][-1])  # [N, C, H', W']
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * ft_loss(factor_student, factor_teacher, self.phi),
        }

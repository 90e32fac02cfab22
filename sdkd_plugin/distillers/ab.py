"""AB: before training, student neurons learn to be active where the teacher's are.

Source: Heo et al., AAAI 2019, arXiv 1811.03233.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above
from sdkd_plugin.distillers import feature_init
from sdkd_plugin.distillers.base import at_least_float32
from sdkd_plugin.distillers.feature_init import FeatureInit
from sdkd_plugin.distillers.maps import fitting_convolution
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    "MARGIN": 1.0,  # how far beyond 0 a pre-activation is pushed
    **feature_init.CONFIG,
}
ALLOWED = {"MARGIN": Above(0), **feature_init.ALLOWED}
SCALE = 3 / 1000  # of the reference codes


def ab_loss(
    preacts_student: Sequence[Tensor], preacts_teacher: Sequence[Tensor], margin: float
) -> Tensor:
    """SCALE / N sum_l 2^(l - L) sum [max(0, m - s)^2 where t > 0, max(0, s + m)^2 elsewhere].

    Of the teacher's pre-activations t only the signs count.

    Args:
        preacts_student, preacts_teacher: L maps [N, C, H, W] each, unbounded, equal shapes per
            stage.
        margin: m, above 0.
    Returns:
        scalar, at least 0; a sum over all neurons, averaged over the batch.
    Raises:
        UserError: two maps of a stage differ in shape.
    Source: arXiv 1811.03233, with the weights of the reference codes (RepDistiller b84f547,
    bhheo/AB_distillation).
    """
    total = preacts_student[0].new_zeros(())
    for student, teacher in zip(preacts_student, preacts_teacher, strict=True):
        if student.shape != teacher.shape:
            raise UserError(
                f"AB compares maps of shape {list(student.shape)} (student) and "
                f"{list(teacher.shape)} (teacher) per batch: its connectors fit images of 32x32 "
                "pixels; set DATASET.IMAGE_SIZE to 32"
            )
        student = at_least_float32(student)
        gap = torch.where(teacher > 0, margin - student, student + margin).relu()  # [N, C, H, W]
        total = total / 2 + gap.square().sum()
    return SCALE / len(preacts_student[0]) * total


@METHODS.register(
    "AB",
    config=CONFIG,
    allowed=ALLOWED,
    epoch_keys=("INIT_EPOCHS",),
    renamed=feature_init.RENAMED,
)
class AB(FeatureInit):
    """`FeatureInit` with `ab_loss` on the pre-activations of all stages.

    Trains connectors beside the student in phase "init".
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher, "AB", cfg.AB)
        self.margin = cfg.AB.MARGIN

        shapes_s, shapes_t = (
            [m.shape for m in probe(net)[1]["preact_feats"][1:]] for net in (student, teacher)
        )
        if len(shapes_s) != len(shapes_t):
            raise UserError(
                f"AB pairs the stages of both networks, but the student has {len(shapes_s)} and "
                f"the teacher {len(shapes_t)}: choose another DISTILLER.STUDENT or "
                "DISTILLER.TEACHER"
            )
        self.connectors = nn.ModuleList(
            connector(*shapes) for shapes in zip(shapes_s, shapes_t, strict=True)
        )

    def init_loss(self, feats_student: dict, feats_teacher: dict) -> Tensor:
        maps = [
            connect(x)
            for connect, x in zip(self.connectors, feats_student["preact_feats"][1:], strict=True)
        ]
        return ab_loss(maps, feats_teacher["preact_feats"][1:], self.margin)


def connector(student: torch.Size, teacher: torch.Size) -> nn.Module:
    """From a student map to the teacher's shape: nothing if equal, else a convolution and a norm.

    Args:
        student, teacher: shapes [N, C, H, W].
    Raises:
        UserError: the student's map is smaller, but not half as large.
    """
    if student[1:] == teacher[1:]:
        return nn.Identity()
    convolution = fitting_convolution(student, teacher)
    if convolution is None:
        sizes = f"{student[2]}x{student[3]} to the teacher's {teacher[2]}x{teacher[3]}"
        raise UserError(
            f"AB cannot bring a student map of {sizes}: allowed: half its size, or its size and "
            "more; choose another DISTILLER.STUDENT or DISTILLER.TEACHER"
        )
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher[1]))

"""OFD: overhaul of feature distillation; maps before the ReLU, below 0 up to a margin (Heo et al.,
ICCV 2019).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from yacs.config import CfgNode

from sdkd_plugin.allowed import AtLeast, Odd
from sdkd_plugin.distillers.base import Distiller, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.maps import pool_to
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        # weight of the maps' distance; its author takes 0.0001 for images of 224x224
        "FEAT_WEIGHT": 0.001,
    },
    "CONNECTOR": {
        "KERNEL_SIZE": 1,  # of the connectors' convolutions, which keep a map's size
    },
}
ALLOWED = {
    "LOSS.CE_WEIGHT": AtLeast(0),
    "LOSS.FEAT_WEIGHT": AtLeast(0),
    "CONNECTOR.KERNEL_SIZE": Odd(),
}


def ofd_loss(
    maps_student: Sequence[Tensor], preacts_teacher: Sequence[Tensor], margins: Sequence[Tensor]
) -> Tensor:
    """1 / N sum_l 2^(l - L) sum (s - t')^2 where s > t' or t' > 0, with t' = max(t, margin).

    A student value needs only to be below a negative t', not equal to it: the ReLU behind it makes
    0 of both.

    Args:
        maps_student: L maps [N, C, H, W], connected, unbounded.
        preacts_teacher: L maps [N, C, H', W'], average-pooled to H x W here.
        margins: L tensors [1, C, 1, 1], at most 0.
    Returns:
        scalar, at least 0; a sum over all neurons, averaged over the batch.
    Source: arXiv 1904.01866; weights and pooling as in mdistiller a08d46f.
    """
    total = maps_student[0].new_zeros(())
    for student, teacher, margin in zip(maps_student, preacts_teacher, margins, strict=True):
        student = at_least_float32(student)
        goal = pool_to(at_least_float32(teacher), student.shape[2:]).maximum(margin)  # [N, C, H, W]
        counts = (student > goal) | (goal > 0)
        total = total / 2 + torch.where(counts, student - goal, 0).square().sum()
    return total / len(maps_student[0])


@torch.no_grad()
def margin(norm: nn.BatchNorm2d) -> Tensor:
    """E[x | x < 0] for x ~ N(bias, weight^2) per channel: the norm's output where the ReLU gives 0.

    Where x < 0 has a probability of 0.001 or less: -3 |weight|.

    Returns:
        [1, C, 1, 1], at most 0, also where the weight is 0.
    Source: arXiv 1904.01866; the exception as in mdistiller a08d46f.
    """
    # DIFF 2: infinite or undefined ratios below end in min(bias, 0)
    std = norm.weight.double().abs()  # [C]
    mean = norm.bias.double()  # [C]
    below = 0.5 * torch.erfc(mean / std / math.sqrt(2))  # P(x < 0)
    density = torch.exp(-0.5 * (mean / std).square()) / math.sqrt(2 * math.pi)
    expected = torch.where(below > 0.001, mean - std * density / below, -3 * std)
    return expected.to(norm.weight.dtype).view(1, -1, 1, 1)


@contextmanager
def batch_statistics(net: nn.Module) -> Iterator[None]:
    """Inside the block norms use their batch, as in train mode; running statistics stand still."""
    norms = [
        (m, m.training, m.track_running_stats) for m in net.modules() if isinstance(m, _BatchNorm)
    ]
    for norm, _, _ in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, training, track in norms:
            norm.training, norm.track_running_stats = training, track


@METHODS.register("OFD", config=CONFIG, allowed=ALLOWED)
class OFD(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * `ofd_loss`; trains connectors beside the student."""

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        node = cfg.OFD
        kernel = node.CONNECTOR.KERNEL_SIZE
        self.ce_weight = node.LOSS.CE_WEIGHT
        self.feat_weight = node.LOSS.FEAT_WEIGHT

        channels_s, channels_t = (
            [x.shape[1] for x in probe(net)[1]["preact_feats"][1:]] for net in (student, teacher)
        )
        # DIFF 3: where the numbers of stages differ, margins are those of the last stages, too
        self.depth = min(len(channels_s), len(channels_t))
        pairs = zip(channels_s[-self.depth :], channels_t[-self.depth :], strict=True)
        self.connectors = nn.ModuleList(connector(*pair, kernel) for pair in pairs)

        for i, norm in enumerate(norms_before_relu(teacher)[-self.depth :]):
            # DIFF 4: part of the state, moves with the model
            self.register_buffer(f"margin{i}", margin(norm))

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        # DIFF 1: the authors' teacher is in train mode, too, but its running statistics drift
        with torch.no_grad(), batch_statistics(self.teacher):
            _, feats_teacher = self.teacher(image)

        own = feats_student["preact_feats"][-self.depth :]
        theirs = feats_teacher["preact_feats"][-self.depth :]
        maps = [connect(x) for connect, x in zip(self.connectors, own, strict=True)]
        margins = [getattr(self, f"margin{i}") for i in range(self.depth)]
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * ofd_loss(maps, theirs, margins),
        }


def norms_before_relu(teacher: nn.Module) -> list[nn.BatchNorm2d]:
    """The teacher's norms in front of each stage's ReLU.

    Raises:
        UserError: the teacher cannot name them.
    """
    listed = getattr(teacher, "get_bn_before_relu", None)
    if listed is None:
        raise UserError(
            f"OFD reads its margins from the teacher's norms, but {type(teacher).__name__} has no "
            "get_bn_before_relu(): choose a DISTILLER.TEACHER of sdkd_plugin.models, or add the "
            "method to its class"
        )
    return listed()


def connector(channels: int, teacher_channels: int, kernel: int) -> nn.Sequential:
    """A same-padded convolution without bias, and a norm.

    Its weights are drawn from N(0, 2 / (kernel^2 teacher_channels)).
    """
    convolution = nn.Conv2d(channels, teacher_channels, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher_channels))

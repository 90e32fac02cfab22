"""ReviewKD: student stages, each fused with all deeper ones, imitate the teacher's stages.

Source: Chen et al., CVPR 2021, arXiv 2104.09044.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import Anything, AtLeast
from sdkd_plugin.distillers.base import Distiller, Step, add_up, at_least_float32, cross_entropy
from sdkd_plugin.distillers.dkd import warmup_factor
from sdkd_plugin.models.base import conv_norm, convolution
from sdkd_plugin.models.outline import outline
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    "REVIEWKD_WEIGHT": 1.0,  # weight of the feature loss; published: 0.6 to 8, by pair
    "WARMUP_EPOCHS": 20,  # epochs over which that weight grows linearly; 0: full from the start
    # this and the next three are read by mdistiller only; here both networks are measured
    "SHAPES": [1, 8, 16, 32],
    "OUT_SHAPES": [1, 8, 16, 32],
    "IN_CHANNELS": [64, 128, 256, 256],
    "OUT_CHANNELS": [64, 128, 256, 256],
    "MAX_MID_CHANNEL": 512,  # bound of the channels in which stages are fused
    # whether the student's maps are taken before their ReLU, as the teacher's are
    "STU_PREACT": False,
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "REVIEWKD_WEIGHT": AtLeast(0),
    "WARMUP_EPOCHS": AtLeast(0),
    "SHAPES": Anything(),
    "OUT_SHAPES": Anything(),
    "IN_CHANNELS": Anything(),
    "OUT_CHANNELS": Anything(),
    "MAX_MID_CHANNEL": AtLeast(1),
    "STU_PREACT": Anything(),
}


def hcl(feat_student: Tensor, feat_teacher: Tensor) -> Tensor:
    """Hierarchical context loss: MSE of two maps and of their averages over 4x4, 2x2, 1x1 cells.

    The four are weighted 1, 1/2, 1/4, 1/8. Only sizes below the map's height count; the first that
    does has weight 1/2. Divided by the sum of the weights used.

    Args:
        feat_student, feat_teacher: [N, C, H, W], the same shape.
    Returns:
        scalar, at least 0.
    Source: arXiv 2104.09044, section 3.3, weights as in the authors' code.
    """
    a = at_least_float32(feat_student)  # [N, C, H, W]
    b = at_least_float32(feat_teacher)  # [N, C, H, W]
    loss = F.mse_loss(a, b)

    weight = total = 1.0
    for size in (4, 2, 1):
        if size < a.shape[2]:
            weight /= 2
            total += weight
            cells_a = F.adaptive_avg_pool2d(a, size)  # [N, C, size, size]
            cells_b = F.adaptive_avg_pool2d(b, size)
            loss = loss + weight * F.mse_loss(cells_a, cells_b)
    return loss / total


class ABF(nn.Module):
    """Attention-based fusion of a student map with what the deeper stages handed up.

    a = BN(conv1x1(x)); with r, resized to a's size: (g, h) = sigmoid(conv1x1([a, r])), one number
    each per position, and a <- g a + h r; handed up is a, resized to the goal's size; the output is
    BN(conv3x3(a)). All resizing takes the nearest.

    Args:
        channels: of x.
        mid: of a and r.
        out_channels: of the teacher's map.
        fuses: whether there is an r (not so at the deepest level).
    """

    def __init__(self, channels: int, mid: int, out_channels: int, fuses: bool):
        super().__init__()
        self.enter = conv_norm(channels, mid, 1)
        self.leave = conv_norm(mid, out_channels, 3)
        self.gates = nn.Conv2d(2 * mid, 2, 1) if fuses else None
        for layers in (self.enter, self.leave):
            nn.init.kaiming_uniform_(convolution(layers).weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Fuses, and hands up.

        Args:
            x: [N, C, H, W].
            deeper: what the level below handed up, [N, mid, h, w]; None at the deepest.
            size: height and width of the goal.
        Returns:
            the output [N, C_out, *size], and what is handed up, [N, mid, *size].
        """
        a = self.enter(x)  # [N, mid, H, W]
        if self.gates is not None:
            assert deeper is not None
            r = F.interpolate(deeper, a.shape[2:], mode="nearest")  # [N, mid, H, W]
            gates = torch.sigmoid(self.gates(torch.cat([a, r], 1)))  # [N, 2, H, W]
            g, h = gates.split(1, dim=1)
            a = a * g + r * h
        if a.shape[2:] != size:
            a = F.interpolate(a, size, mode="nearest")  # [N, mid, *size]
        return self.leave(a), a


def levels(feats: dict[str, Any], preact: bool) -> list[Tensor]:
    """A network's stage maps without the stem's, then the pooled vector as a map of size 1.

    Args:
        feats: what the network returns beside its logits.
        preact: whether the maps are those before their ReLU.
    """
    stages = feats["preact_feats" if preact else "feats"][1:]
    return [*stages, feats["pooled_feat"][:, :, None, None]]


def _outline(name: str, part: int) -> list[int] | None:
    shape = outline(name)
    return shape and shape[part]


@METHODS.register(
    "REVIEWKD",
    config=CONFIG,
    allowed=ALLOWED,
    epoch_keys=("WARMUP_EPOCHS",),
    idle={
        "SHAPES": lambda cfg: _outline(cfg.DISTILLER.STUDENT, 1),
        "OUT_SHAPES": lambda cfg: _outline(cfg.DISTILLER.TEACHER, 1),
        "IN_CHANNELS": lambda cfg: _outline(cfg.DISTILLER.STUDENT, 0),
        "OUT_CHANNELS": lambda cfg: _outline(cfg.DISTILLER.TEACHER, 0),
    },
)
class ReviewKD(Distiller):
    """CE_WEIGHT * CE + min(epoch / WARMUP_EPOCHS, 1) * REVIEWKD_WEIGHT * sum of HCL.

    Trains one ABF per level beside the student.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CN):
        super().__init__(student, teacher)
        self.node = cfg.REVIEWKD
        # DIFF 1: measured, where mdistiller reads shapes and channels from the config
        own = levels(probe(student)[1], preact=True)
        theirs = levels(probe(teacher)[1], preact=True)
        # DIFF 2: with unequal numbers of stages the k-th of n imitates the ceil(k m / n)-th of m,
        # where mdistiller drops some
        n = len(own) - 1
        m = len(theirs) - 1
        self.goals = [math.ceil(k * m / n) - 1 for k in range(1, n + 1)] + [m]

        # DIFF 3: mdistiller ignores the setting and takes 512
        mid = min(self.node.MAX_MID_CHANNEL, own[-1].shape[1])
        channels = [
            (x.shape[1], theirs[goal].shape[1]) for x, goal in zip(own, self.goals, strict=True)
        ]
        self.abfs = nn.ModuleList(
            ABF(c, mid, out, fuses=k < n) for k, (c, out) in enumerate(channels)
        )

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():  # DIFF 4: in eval mode
            _, feats_teacher = self.teacher(image)

        own = levels(feats_student, self.node.STU_PREACT)
        theirs = levels(feats_teacher, preact=True)
        losses = []
        deeper = None
        for x, goal, abf in reversed(list(zip(own, self.goals, self.abfs, strict=True))):
            output, deeper = abf(x, deeper, theirs[goal].shape[2:])  # [N, C_T, H, W]
            losses.append(hcl(output, theirs[goal]))

        loss = add_up(losses)
        # DIFF 5: epochs from 1, as in mdistiller; a warm-up of 0 epochs is allowed
        factor = warmup_factor(epoch, self.node.WARMUP_EPOCHS)
        self.terms = {"hcl": loss.detach()}
        return logits_student, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": factor * self.node.REVIEWKD_WEIGHT * loss,
        }

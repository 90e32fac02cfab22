"""NORM: N copies' worth of student channels imitate the teacher's last map, and fold away.

Source: Liu et al., ICLR 2023, arXiv 2305.13803.
"""

import copy
from bisect import bisect_left
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import Above, Anything, AtLeast, Numbers
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import Distiller, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.base import (
    CifarNet,
    conv_norm,
    convolution,
    init_convolutions,
    last_norm,
)
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    "N": 8,  # how many student maps imitate the teacher's one
    # whether the transform is added to its input (the paper's default) or replaces it
    "RESIDUAL": True,
    # weight of the cross entropy with the labels; published: searched in 1/16 to 1/2, by pair
    "CE_WEIGHT": 0.1,
    "KD_WEIGHT": 0.0,  # weight of tau^2 KL; above 0: the paper's NORM+KD
    "TAU": 4.0,  # temperature of that KL
    "FEAT_WEIGHT": 1.0,  # weight of the feature loss at its height
    # the last epochs of all but the last phase of the feature loss, ascending
    "RAMP_EPOCHS": [10, 20, 180, 210],
    "RAMP_WEIGHTS": [0.1, 0.5, 1.0, 0.5, 0.1],  # its factor in each phase
    # whether CE and KL see both networks' logits brought to mean 0 and deviation LOGIT_SCALE
    "LOGIT_NORM": True,
    "LOGIT_SCALE": 2.5,
    **lskd.CONFIG,
}
ALLOWED = {
    "N": AtLeast(1),
    "RESIDUAL": Anything(),
    "CE_WEIGHT": AtLeast(0),
    "KD_WEIGHT": AtLeast(0),
    "TAU": Above(0),
    "FEAT_WEIGHT": AtLeast(0),
    "RAMP_EPOCHS": Numbers("ascending epochs", ascending=True),
    "RAMP_WEIGHTS": Numbers("numbers from 0, one more than RAMP_EPOCHS", AtLeast(0)),
    "LOGIT_NORM": Anything(),
    "LOGIT_SCALE": Above(0),
    **lskd.ALLOWED,
}
EPS = 1e-7  # added to the variance of a sample's logits, as in the authors' code


def check_ramp(cfg: CN) -> None:
    """Raises UserError unless the feature loss has one weight for each phase of its ramp."""
    epochs = cfg.NORM.RAMP_EPOCHS
    weights = cfg.NORM.RAMP_WEIGHTS
    if len(weights) != len(epochs) + 1:
        raise UserError(
            f"NORM.RAMP_EPOCHS is {epochs}, NORM.RAMP_WEIGHTS is {weights}; allowed: one weight "
            "more than epochs"
        )


def norm_loss(expanded: Tensor, map_teacher: Tensor, n: int) -> Tensor:
    """Sum over the N parts u_i of the student's expanded map of MSE(u_i, F_T).

    F_T is max-pooled to the student's size.

    Args:
        expanded: [B, N C_T, H, W].
        map_teacher: [B, C_T, H', W'], H' at least H.
        n: N.
    Returns:
        scalar, at least 0.
    Source: arXiv 2305.13803; the authors' code tiles F_T N times and multiplies the mean by N,
    which is the same.
    """
    parts = at_least_float32(expanded).unflatten(1, (n, -1))  # [B, N, C_T, H, W]
    # DIFF 1: to the student's size exactly, also where that is no whole fraction of the teacher's
    height, width = expanded.shape[2:]
    goal = F.adaptive_max_pool2d(at_least_float32(map_teacher), (height, width))  # [B, C_T, H, W]
    error = parts - goal.unsqueeze(1)  # [B, N, C_T, H, W]
    return n * error.square().mean()


def normalised(logits: Tensor, scale: float) -> Tensor:
    """Logits with mean 0 and standard deviation `scale` over each sample's classes.

    Args:
        logits: [B, K]; the order of their classes stays.
        scale: above 0.
    Returns:
        [B, K].
    """
    logits = at_least_float32(logits)  # [B, K]
    return scale * F.layer_norm(logits, logits.shape[1:], eps=EPS)


class Transform(nn.Module):
    """The feature transform FT, without any non-linearity: u = BN(conv1x1(x)), x + BN(conv1x1(u)).

    Args:
        channels: C of x.
        wide: N C_T, channels of u.
        residual: whether x is added.
    """

    def __init__(self, channels: int, wide: int, residual: bool):
        super().__init__()
        self.expand = conv_norm(channels, wide, 1)
        self.contract = conv_norm(wide, channels, 1)
        self.residual = residual
        init_convolutions(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] to the transformed x and to u [B, N C_T, H, W]."""
        u = self.expand(x)  # [B, N C_T, H, W]
        out = self.contract(u)  # [B, C, H, W]
        return (x + out if self.residual else out), u

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, Tensor]:
        """A and c such that in eval mode FT maps every position's x to A x + c.

        Returns:
            [C, C] and [C], float64.
        """
        expand, shift_u = _affine(self.expand)
        contract, shift = _affine(self.contract)
        a = contract @ expand  # [C, C]
        c = contract @ shift_u + shift  # [C]
        if self.residual:
            a = a + torch.eye(len(a), dtype=a.dtype, device=a.device)
        return a, c


def _affine(layers: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Matrix [C_out, C_in] and shift [C_out], float64, of a 1x1 convolution without bias and its
    norm in eval mode.
    """
    norm = last_norm(layers)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()  # [C_out]
    matrix = scale[:, None] * convolution(layers).weight.double()[:, :, 0, 0]
    shift = norm.bias.double() - scale * norm.running_mean.double()  # [C_out]
    return matrix, shift


@torch.no_grad()
def fold(student: CifarNet, transform: Transform) -> CifarNet:
    """A copy of the student that computes in eval mode what student and FT do together.

    Where it goes is the student's to say: into its classifier, or, where a norm and a ReLU stand
    between (WRN), into one 1x1 convolution in front of these.
    """
    folded = copy.deepcopy(student)
    folded.fold_affine(*transform.affine())
    return folded


@METHODS.register(
    "NORM",
    config=CONFIG,
    allowed=ALLOWED,
    rule=check_ramp,
    epoch_keys=("RAMP_EPOCHS",),
    renamed={"T": "TAU"},
)
class NORM(Distiller):
    """CE_WEIGHT * CE + KD_WEIGHT * tau^2 KL + ramp(epoch) * FEAT_WEIGHT * NORM loss.

    The student has FT before its head.
    """

    needs_model_extras = True
    student: CifarNet

    def __init__(self, student: CifarNet, teacher: nn.Module, cfg: CN):
        super().__init__(student, teacher)
        self.node = cfg.NORM
        if not hasattr(student, "maps_through"):
            raise UserError(
                "NORM works on the student's last map before the student goes on with it, which "
                f"{type(student).__name__} does not let it (maps_through): choose a "
                "DISTILLER.STUDENT of sdkd_plugin.models"
            )
        own = probe(student)[1]["head_in"].shape  # [1, C, H, W]
        theirs = probe(teacher)[1]["feats"][-1].shape  # [1, C_T, H', W']
        if own[2] > theirs[2]:
            sizes = f"{own[2]}x{own[2]} and {theirs[2]}x{theirs[2]}"
            raise UserError(
                "NORM shrinks the teacher's last map to the student's and cannot enlarge it: for "
                f"32x32 images the student's and the teacher's are {sizes}; choose another "
                "DISTILLER.TEACHER or DISTILLER.STUDENT"
            )
        # DIFF 2: also for N = 1, where the authors' code leaves it out
        self.transform = Transform(own[1], self.node.N * theirs[1], self.node.RESIDUAL)

    def deployed(self) -> nn.Module:
        return fold(self.student, self.transform)

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, expanded = self.unfolded(image)  # [B, K], [B, N C_T, H, W]
        with torch.no_grad():
            logits_teacher, feats_teacher = self.teacher(image)  # [N, K]

        own = logits_student
        theirs = logits_teacher
        if self.node.LOGIT_NORM:
            own = normalised(own, self.node.LOGIT_SCALE)  # [B, K]
            theirs = normalised(theirs, self.node.LOGIT_SCALE)  # [B, K]
        # WRN's map is the raw sum before its norm, on both sides
        feat = norm_loss(expanded, feats_teacher["feats"][-1], self.node.N)
        kd = kd_loss(*kl_logits(self.node.LOGIT_STANDARD, own, theirs), self.node.TAU)
        self.terms = {"norm_feat": feat.detach(), "kd": kd.detach()}

        # DIFF 3: epochs from 1 to 240, where the authors' loop counts from 0 to 240
        ramp = self.node.RAMP_WEIGHTS[bisect_left(self.node.RAMP_EPOCHS, epoch)]
        # DIFF 4: the logits as they are, since they are what ships; the losses alone see the
        # normalised ones
        return logits_student, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(own, target),
            "loss_kd": ramp * self.node.FEAT_WEIGHT * feat + self.node.KD_WEIGHT * kd,
        }

    def unfolded(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The student's logits [B, K] with FT in place, and FT's expanded map [B, N C_T, H, W]."""
        expanded: list[Tensor] = []

        def insert(x: Tensor) -> Tensor:
            x, u = self.transform(x)
            expanded.append(u)
            return x

        head_in = self.student.maps_through(image, insert)[2]
        return self.student.forward_head(head_in)[0], expanded[0]

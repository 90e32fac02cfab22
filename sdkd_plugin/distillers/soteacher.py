"""SoTeacher: a teacher trained to be a good teacher, then plain KD from it.

Source: Dong, Liu, Shang, ICLR 2024.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import Above, AtLeast, OneOf
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import (
    Distiller,
    Phase,
    Step,
    at_least_float32,
    cross_entropy,
    whole_epochs,
)
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    # of the phase that trains the teacher, with SOLVER's schedule
    "TEACHER_EPOCHS": 240,
    "TEACHER_LR_FACTOR": 1.0,  # the teacher's learning rate relative to SOLVER.LR
    "LIP_WEIGHT": 1e-5,  # weight of the Lipschitz regulariser
    "CONSIST_WEIGHT": 1.0,  # weight of the consistency regulariser in the last epoch
    # the mean over past epochs: released (the first counts twice, as in the authors' code) | even
    "HISTORY": "released",
    "KD": {
        # of the phase that trains the student: weight of the cross entropy with the labels
        "CE_WEIGHT": 0.5,
        "KD_WEIGHT": 0.5,  # and of tau^2 KL
        "TAU": 4.0,  # and its temperature
    },
    **lskd.CONFIG,
}
ALLOWED = {
    "TEACHER_EPOCHS": Above(0),
    "TEACHER_LR_FACTOR": Above(0),
    "LIP_WEIGHT": AtLeast(0),
    "CONSIST_WEIGHT": AtLeast(0),
    "HISTORY": OneOf(("released", "even"), "history"),
    "KD.CE_WEIGHT": AtLeast(0),
    "KD.KD_WEIGHT": AtLeast(0),
    "KD.TAU": Above(0),
    **lskd.ALLOWED,
}


def lipschitz(net: nn.Module) -> Tensor:
    """Sum over layers of a bound on how much each can stretch its input.

    Convolution: sum |W|; batch norm: max_c |gamma_c| / sqrt(running variance_c + eps); linear: max
    over inputs of sum over outputs |W|. Biases do not count.

    Args:
        net: its running statistics are constants.
    Returns:
        scalar, at least 0, float32 or wider.
    Source: the authors' code (SoTeacher 0148005), after arXiv 2206.06661, section 4.
    """
    layers = list(net.modules())
    bounds = [m.weight.abs().sum() for m in layers if isinstance(m, nn.Conv2d)]
    bounds += [_stretch(m) for m in layers if isinstance(m, nn.BatchNorm2d)]
    bounds += [m.weight.abs().sum(0).max() for m in layers if isinstance(m, nn.Linear)]
    return torch.stack([at_least_float32(bound) for bound in bounds]).sum()


def _stretch(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_var is not None
    return (norm.weight.abs() / (norm.running_var + norm.eps).sqrt()).max()  # of [C]


def consistency(probabilities: Tensor, history: Tensor) -> Tensor:
    """Squared distance to the own past: mean over samples of sum over classes of (p - q)^2.

    Args:
        probabilities, history: p and q, [N, K], rows of sum 1.
    Returns:
        scalar, from 0 to 2.
    """
    squares = (probabilities - history).square().sum(1)  # [N]
    return squares.mean()


def renewal(epoch: int, kind: str) -> float:
    """The share in q <- (1 - share) q + share p; 1 in the first epoch, which sets q = p.

    "even" makes q the plain mean of all past p; "released" lets the first epoch count twice, since
    the authors' counter goes from 0 to 2.
    """
    if epoch == 1:
        return 1.0
    # DIFF 1: both readings
    return 1 / (epoch + 1) if kind == "released" else 1 / epoch


@METHODS.register(
    "SOTEACHER",
    config=CONFIG,
    allowed=ALLOWED,
    epoch_keys=("TEACHER_EPOCHS",),
    renamed={"KD.T": "KD.TAU"},
)
class SoTeacher(Distiller):
    """Phase "teacher": CE + LIP_WEIGHT * Lipschitz + CONSIST_WEIGHT * epoch / TEACHER_EPOCHS *
    consistency, the last from epoch 2 on.

    Phase "train": the student, with KD.CE_WEIGHT * CE + KD.KD_WEIGHT * tau^2 KL, from the teacher
    as it then stands. A loop that knows no phases runs the second alone.
    """

    history: Tensor  # q, [images, K]

    teacher_from = "scratch"
    needs_num_data = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CN, num_data: int):
        super().__init__(student, teacher)
        self.node = cfg.SOTEACHER
        num_classes = probe(teacher)[0].shape[1]
        self.register_buffer("history", torch.zeros(num_data, num_classes))

    def phases(self, cfg: CN) -> list[Phase]:
        teacher = Phase("teacher", whole_epochs(cfg.SOTEACHER.TEACHER_EPOCHS), scores=False)
        return [teacher, Phase("train", cfg.SOLVER.EPOCHS)]

    @property
    def trains_teacher(self) -> bool:
        return self.phase is not None and self.phase.name == "teacher"

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        idle = self.student if self.trains_teacher else self.teacher
        # DIFF 2: the student learns in the same run, from the teacher of the last epoch
        idle.eval()
        return self

    def get_parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        if phase.name == "teacher":
            params = list(self.teacher.parameters())
            return [{"params": params, "lr_factor": self.node.TEACHER_LR_FACTOR}]
        return [{"params": list(self.student.parameters())}]

    def forward_train(
        self,
        image: Tensor,
        target: Tensor,
        epoch: int = 1,
        index: Tensor | None = None,
        **extras: Any,
    ) -> Step:
        """As in `Distiller`; in the teacher's phase, which needs `index` [N], the logits are the
        teacher's.
        """
        if self.trains_teacher:
            assert index is not None
            return self.train_teacher(image, target, epoch, index)

        logits_student, _ = self.student(image)  # [N, K]
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)  # [N, K]

        seen = kl_logits(self.node.LOGIT_STANDARD, logits_student, logits_teacher)  # [N, K] both
        kd = kd_loss(*seen, self.node.KD.TAU)
        self.terms = {}
        return logits_student, {
            "loss_ce": self.node.KD.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": self.node.KD.KD_WEIGHT * kd,
        }

    def train_teacher(self, image: Tensor, target: Tensor, epoch: int, index: Tensor) -> Step:
        """One step of the teacher's phase.

        The images' rows of the history are compared with first and renewed after.
        """
        assert self.phase is not None
        logits, _ = self.teacher(image)  # [N, K]
        probabilities = torch.softmax(at_least_float32(logits), dim=1)  # [N, K]
        lip = lipschitz(self.teacher)
        consist = consistency(probabilities, self.history[index])
        # the history is empty in the first epoch
        weight = self.node.CONSIST_WEIGHT * epoch / self.phase.epochs if epoch > 1 else 0.0

        share = renewal(epoch, self.node.HISTORY)
        with torch.no_grad():
            now = probabilities.detach().to(self.history.dtype)
            self.history.index_copy_(0, index, torch.lerp(self.history[index], now, share))

        self.terms = {"lipschitz": lip.detach(), "consistency": consist.detach()}
        return logits, {
            "loss_ce": cross_entropy(logits, target),
            "loss_kd": self.node.LIP_WEIGHT * lip + weight * consist,
        }

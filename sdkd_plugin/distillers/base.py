"""The Distiller contract, shared with mdistiller: `Class(student, teacher, cfg)`, one step in
`forward_train`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from yacs.config import CfgNode as CN

# What a step's forward gives: the student's logits [N, K], and the weighted scalar losses by name.
Step = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Phase:
    """One phase of a method's training, with an optimiser of its own.

    Args:
        name: as it stands in metrics.csv.
        epochs: how many, whole.
        lr: constant learning rate; None: SOLVER's, with its decay counted in this phase's epochs.
        scores: whether the accuracy in this phase is the method's (not so while only feature maps
            are being matched); the last phase always scores.
        validation: fraction of the training images that this phase holds out and hands to
            `before_step`.
    """

    name: str
    epochs: int
    lr: float | None = None
    scores: bool = True
    validation: float = 0.0


class Distiller(nn.Module):
    """Holds a student and a teacher; a method adds its own modules and its `forward_train`.

    What a method needs from the loop it declares as class attributes; the loop reads them, never
    the method's name. The rest it says by overriding `phases`, `begin_phase`,
    `get_parameter_groups`, `before_step` and `deployed`.
    Epoch-valued config keys are declared at registration (`epoch_keys`), so that short schedules
    scale them; so are keys that name a file (`file_keys`), whose content then counts as part of the
    run's identity, not its path. What each key may hold is declared there, too (`allowed`), as is
    what several must hold together (`rule`), the first name of one that was renamed (`renamed`) and
    values with which alone the method needs whole batches (`whole_batch_if`).

    Attributes:
        teacher_from: "checkpoint": trained and frozen; "scratch": freshly initialised, the method
            trains it; "none".
        needs_num_data: the constructor takes a fourth argument, the number of training images.
        needs_negatives: `forward_train` receives `contrastive_index` [N, 1 + K] with K =
            `self.num_negatives`.
        views: of each image; with 2 (DATASET.VIEWS) `forward_train` receives `strong`
            [N, 3, H, W], a second, strongly augmented one.
        needs_constant_batch: a last short batch is left out.
        needs_whole_batch: what it computes on a batch is not the mean of what it computes on parts,
            as where images are compared with each other or remembered, whatever its settings; one
            process only.
        optional_phases: its defaults need one phase; only some settings ask for more.
        splits_losses: each of its steps has loss_ce and loss_kd, and it reads no momentum, so that
            the two may have momenta of their own (SOLVER.OPTIMIZER dot).
        needs_model_extras: reads what only this package's models offer (`head_in`,
            `classifier_module`, `forward_head`).
    """

    teacher_from = "checkpoint"
    needs_num_data = False
    needs_negatives = False
    views = 1
    needs_constant_batch = False
    needs_whole_batch = False
    optional_phases = False
    splits_losses = True
    needs_model_extras = False
    num_negatives: int  # of a method that needs negatives

    student: nn.Module
    teacher: Any  # a network, or None for a method without one

    def __init__(self, student: nn.Module, teacher: nn.Module | None):
        super().__init__()
        self.student = student
        self.teacher = teacher
        # set by the loop; None under a loop that knows no phases
        self.phase: Phase | None = None
        # single loss terms of the last step, detached, for the log only
        self.terms: dict[str, Tensor] = {}

        if self.teacher_from == "checkpoint":
            self.teacher.requires_grad_(False)
            self.teacher.eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.teacher_from == "checkpoint":
            self.teacher.eval()
        return self

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        """Every parameter but a frozen teacher's: nothing that is registered can be forgotten."""
        frozen = "teacher." if self.teacher_from == "checkpoint" else ()
        return [p for name, p in self.named_parameters() if not name.startswith(frozen)]

    def get_extra_parameters(self) -> int:
        """How many trainable numbers training adds to the student's own."""
        return sum(p.numel() for p in self.get_learnable_parameters()) - sum(
            p.numel() for p in self.student.parameters()
        )

    def phases(self, cfg: CN) -> list[Phase]:
        """The phases of training in order; by default one, SOLVER's. `cfg` is scaled to this run's
        epochs.
        """
        return [Phase("train", cfg.SOLVER.EPOCHS)]

    def enter(self, phase: Phase, begin: bool) -> list[dict[str, Any]]:
        """Enters a phase: the one place where its parameters, and no others, become trainable.

        Args:
            begin: whether the phase begins; False when resuming inside it.
        Returns:
            the optimiser's groups, each with `params` and `lr_factor`.
        """
        self.phase = phase
        if begin:
            self.begin_phase(phase)
        groups = [{"lr_factor": 1.0, **group} for group in self.get_parameter_groups(phase)]

        self.requires_grad_(False)
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        return groups

    def begin_phase(self, phase: Phase) -> None:
        """Called once before a phase's first epoch, for what must happen exactly once; not called
        again on resume.

        Modes and freezing that hold throughout a phase belong in `train`, which sees `self.phase`.
        """

    def get_parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        """What `phase` trains: optimiser groups with `params` and, where it differs from 1,
        `lr_factor`.
        """
        return [{"params": self.get_learnable_parameters()}]

    def before_step(
        self, optimizer: Optimizer, image: Tensor, target: Tensor, **extras: Any
    ) -> None:
        """Called before each step's forward with the same arguments and, if the phase holds out
        images, `validation`.
        """

    def deployed(self) -> nn.Module:
        """The network to ship and score, image -> (logits, feats); its state is what `student_*`
        files hold.

        Its layers must follow from the two networks' names, the number of classes and the method's
        config node, since `engine.deploy` rebuilds it from these alone.
        """
        return self.student

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        """One training step's forward.

        Args:
            image: [N, 3, H, W], normalised.
            target: [N] int64 class numbers.
            epoch: 1-based.
            extras: `index` [N] (position in the training set), `progress` (from 0 to 1, the part of
                this phase that is done) and whatever the method declared. Under mdistiller's
                trainer only `epoch` may be there.
        Returns:
            the student's logits [N, K] and the weighted scalar losses; the trainer minimises their
            sum.
        """
        raise NotImplementedError

    def forward_test(self, image: Tensor) -> Tensor:
        """The logits [N, K] of the network that is deployed."""
        return self.deployed()(image)[0]

    def forward(self, image: Tensor, target: Tensor | None = None, **extras: Any) -> Any:
        """`forward_train` in train mode, where a target is due; `forward_test` in eval mode."""
        if not self.training:
            return self.forward_test(image)
        assert target is not None
        return self.forward_train(image=image, target=target, **extras)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy in float32 or wider, also under autocast.

    Args:
        logits: [N, K], unbounded.
        target: [N] int64 class numbers.
    Returns:
        scalar, at least 0; mean over the batch.
    """
    return F.cross_entropy(at_least_float32(logits), target)


def at_least_float32(x: Tensor) -> Tensor:
    """Widens half precision: losses sum over classes and exponentiate, which neither fp16 nor bf16
    survives.
    """
    return x.float() if x.dtype.itemsize < 4 else x


def full_precision(x: Tensor) -> torch.autocast:
    """A block without autocast on x's device: it would round the inputs of matrix products."""
    return torch.autocast(x.device.type, enabled=False)


def add_up(terms: Iterable[Tensor]) -> Tensor:
    """The sum of at least one term, added in order."""
    return reduce(torch.add, terms)


def whole_epochs(epochs: float) -> int:
    """A scaled epoch count, made whole again: at least 1, or 0 if it was 0."""
    return max(1, round(epochs)) if epochs else 0

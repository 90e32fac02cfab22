"""`distill`: any method of this package in a loop of one's own, on networks and batches of one's
own, without a config tree.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from yacs.config import CfgNode as CN

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.distillers.base import Distiller, Phase, add_up
from sdkd_plugin.engine.finite import FiniteWatch
from sdkd_plugin.engine.given import Pair, as_pair, check_targets, first_pair, with_features
from sdkd_plugin.engine.schedule import learning_rate
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.library import LibraryModel
from sdkd_plugin.randomness import TorchStream, torch_seeded
from sdkd_plugin.registry import METHODS, Entry
from sdkd_plugin.settings import override_words

# Makes an optimiser of the groups that a phase trains, each {"params": [...], "lr_factor": 1.0}.
MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]

SCHEDULE = 240  # epochs for which the methods' epoch-valued settings are written
REMEDY = "lower the optimiser's learning rate, or the term's weight in settings"
SGD_HERE = partial(SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)  # the protocol's


@dataclass(frozen=True)
class Losses:
    """What one step gave.

    Args:
        phase: the method's phase; most have one, "train".
        epoch, step: 1-based, in the phase and in the epoch.
        terms: the weighted scalar losses, by name; the step minimises their sum.
        logits: the student's, [N, K], detached.
    """

    phase: str
    epoch: int
    step: int
    terms: dict[str, Tensor]
    logits: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the terms, a scalar."""
        return add_up(self.terms.values())


class Distillation:
    """A student learning from a teacher; iterating over it trains. See `distill`.

    Attributes:
        method: the Distiller around the two networks, with whatever modules it adds.
        cfg: what it was built by.
    """

    def __init__(
        self,
        method: Distiller,
        cfg: CN,
        loader: Iterable[Pair],
        optimizer: MakeOptimizer | None,
        networks: list[nn.Module],
        classes: int,
    ):
        self.method = method
        self.cfg = cfg
        self._loader = loader
        self._optimizer = optimizer
        self._networks = networks  # as the caller gave them
        self._classes = classes  # of the student
        self._phases = [phase for phase in method.phases(cfg) if phase.epochs]
        self._begun = False
        self._check()

    def _check(self) -> None:
        name = self.cfg.DISTILLER.TYPE
        if any(phase.validation for phase in self._phases):
            raise UserError(
                f"method {name!r} holds images out of training, which it cannot of a loader; "
                "choose another method, or train with sdkd_plugin.train"
            )
        if self._optimizer is None and (len(self._phases) > 1 or self._phases[0].lr is not None):
            counted = ", ".join(f"{p.name} ({p.epochs} epochs)" for p in self._phases)
            raise UserError(
                f"method {name!r} trains in phases of their own optimisers: {counted}; give "
                "optimizer=, a function that makes one"
            )

    def parameters(self) -> list[nn.Parameter]:
        """What is trained: the student's, and those that the method adds for training."""
        return self.method.get_learnable_parameters()

    @property
    def deployed(self) -> nn.Module:
        """The network to use afterwards: the student as it was given, unless the method makes
        another of it, as SimKD does.
        """
        network = self.method.deployed()
        return self._networks[0] if network is self.method.student else network

    def __iter__(self) -> Iterator[Losses]:
        if self._begun:
            raise UserError("a distillation can be gone through once; call distill again")
        self._begun = True
        try:
            for phase in self._phases:
                with torch_seeded(self.cfg.SOLVER.SEED, "begin", phase.name):
                    groups = self.method.enter(phase, begin=True)
                optimizer = None if self._optimizer is None else self._optimizer(groups)
                base = [] if optimizer is None else [g["lr"] for g in optimizer.param_groups]
                for epoch in range(1, phase.epochs + 1):
                    if optimizer is not None:
                        self._set_rates(optimizer, base, phase, epoch)
                    yield from self._epoch(phase, epoch, optimizer)
        finally:
            for model in (self.method.student, self.method.teacher):
                if isinstance(model, LibraryModel) and model not in self._networks:
                    model.unwatch()

    def _set_rates(self, optimizer: Optimizer, base: list[float], phase: Phase, epoch: int) -> None:
        solver = self.cfg.SOLVER
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            rate = lr * learning_rate(self.cfg, epoch) / solver.LR if phase.lr is None else phase.lr
            group["lr"] = rate * group.get("lr_factor", 1.0)

    def _epoch(self, phase: Phase, epoch: int, optimizer: Optimizer | None) -> Iterator[Losses]:
        method = self.method.train()
        device = next(method.student.parameters()).device
        # for methods that draw in their step
        stream = TorchStream(self.cfg.SOLVER.SEED, phase.name, epoch)
        watch = FiniteWatch(device, epoch, REMEDY)
        step = 0
        for batch in self._loader:
            image, target = as_pair(batch, device, self._classes)
            if method.needs_constant_batch and len(target) != self.cfg.SOLVER.BATCH_SIZE:
                continue
            step += 1
            done = epoch - 1 + (step - 1) / max(step, _length(self._loader))
            inputs: dict[str, Any] = {"image": image, "target": target, "epoch": epoch}
            inputs["progress"] = done / phase.epochs
            with stream:
                if optimizer is not None:
                    method.before_step(optimizer, **inputs)
                logits, terms = method(**inputs)

            losses = Losses(phase.name, epoch, step, terms, logits.detach())
            detached = {name: term.detach() for name, term in terms.items()}
            watch.note(step, losses.total.detach(), detached)
            if optimizer is not None:  # else the step is the caller's, with the graph
                losses.total.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                losses = replace(losses, terms=detached)
            yield losses

        watch.look()
        if not step:
            raise UserError(
                f"loader gave no whole batch in epoch {epoch} of phase {phase.name!r}; give one "
                "that can be gone through in each epoch, such as a DataLoader or a list"
            )


def _length(loader: Iterable[Pair]) -> int:
    """Batches in an epoch; 0 for a loader that does not say."""
    return len(loader) if isinstance(loader, Sized) else 0


def distill(
    student: nn.Module,
    teacher: nn.Module | None,
    loader: Iterable[Pair],
    method: str = "SDKD",
    *,
    epochs: int = SCHEDULE,
    settings: Mapping[str, Any] | None = None,
    optimizer: MakeOptimizer | None = SGD_HERE,
    schedule_epochs: int = SCHEDULE,
    seed: int = 0,
) -> Distillation:
    """Trains a student of your own in a loop of your own:

        for losses in distill(student, teacher, loader, "DKD", epochs=30):
            print(losses.epoch, losses.step, losses.total.item())

    Each turn is a step that has been taken on the next batch. With `optimizer=None` each turn is a
    forward pass and the step is yours: `losses.total.backward()`, with an optimiser of
    `distillation.parameters()`.

    Args:
        student, teacher: networks from images [N, 3, H, W] to logits [N, K] alone, as torchvision
            has them, or to `(logits, feats)` with the feats of `models.base.Feats`, on the device
            where they shall train. The student is trained in place; the teacher is frozen, unless
            the method trains one of its own (DML, SOTEACHER). None for "NONE".
        loader: batches (image [N, 3, H, W] float, normalised, target [N] int64); gone through once
            in each epoch.
        method: as in DISTILLER.TYPE.
        epochs: of the method's main phase.
        settings: the method's, as its card in docs/methods/ lists them: {"TAU": 2.0,
            "LOSS.PROXY_WEIGHT": 0}.
        optimizer: makes one of a phase's parameter groups, such as `functools.partial(AdamW,
            lr=1e-3)`; its rate falls to a tenth after 5/8, 6/8 and 7/8 of the epochs. None: the
            steps are the caller's.
        schedule_epochs: for how many epochs settings that count epochs are written; they shrink
            with `epochs`.
        seed: of the modules that a method adds, and of what it draws.
    Raises:
        UserError: an unknown method or setting; a method that needs more than a loader gives (CRD's
            negatives); networks without what the method reads; a loss that is not finite.
    """
    entry = METHODS.find(method, "method")
    name = entry.name
    _check_loop(entry)
    _check_teacher(name, entry.build.teacher_from, teacher)
    image, target = first_pair(loader)
    solver = {
        "BATCH_SIZE": len(image),
        "EPOCHS": epochs,
        "SCHEDULE_EPOCHS": schedule_epochs,
        "SEED": seed,
    }
    cfg = _loop_config(name, solver, settings or {})

    size = image.shape[2]
    learner, classes = with_features(student, size)
    check_targets(target, classes)
    guide = None if teacher is None else with_features(teacher, size)[0]
    with torch_seeded(seed, "distiller", name):
        built = entry.build(learner, guide, cfg)
    built.to(next(student.parameters()).device)
    networks = [student] if teacher is None else [student, teacher]
    return Distillation(built, cfg, loader, optimizer, networks, classes)


def _loop_config(name: str, solver: Mapping[str, int], settings: Mapping[str, Any]) -> CN:
    """The scaled config of a method with these keys of SOLVER and of the method's node."""
    keys: dict[str, Any] = {"DISTILLER.TYPE": name}
    keys |= {f"SOLVER.{key}": value for key, value in solver.items()}
    keys |= {f"{name}.{key}": value for key, value in settings.items()}
    return scaled_config(load_config(None, override_words(keys)))


def _check_loop(entry: Entry) -> None:
    """Raises UserError for a method that needs more of a batch than (image, target)."""
    name = entry.name
    if entry.build.needs_num_data or entry.build.needs_negatives:
        raise UserError(
            f"method {name!r} needs each image's place in the training set, which a loader of "
            "(image, target) does not tell; choose another method, or train with sdkd_plugin.train"
        )
    if entry.build.views > 1:
        raise UserError(
            f"method {name!r} needs a second view of each image, which a loader of (image, target) "
            "does not give; choose another method, or train with sdkd_plugin.train"
        )


def _check_teacher(name: str, source: str, teacher: nn.Module | None) -> None:
    if source == "none" and teacher is not None:
        raise UserError(f"method {name!r} has no teacher; give None")
    if source != "none" and teacher is None:
        raise UserError(f"teacher is None; method {name!r} needs a network")

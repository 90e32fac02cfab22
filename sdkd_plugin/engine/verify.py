"""`verify`: whether a run's first steps give here, bit for bit, what they gave when it began."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode as CN

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.engine.build import build_distiller, build_teacher
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.first_steps import StepRecord, read_first_steps
from sdkd_plugin.engine.threads import threads
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_object
from sdkd_plugin.idle import todays_identity
from sdkd_plugin.runs.environment import describe_environment
from sdkd_plugin.runs.folder import RunFolder, recorded_threads
from sdkd_plugin.runs.identity import difference
from sdkd_plugin.settings import flatten


def verify(path: Path, steps: int | None = None, overrides: Sequence[str] = ()) -> bool:
    """Repeats the first steps of the run in this folder, from its stored config and with its thread
    count, prints whether they match its record, and returns that. Writes nothing.

    Args:
        steps: how many; None: as many as are recorded.
        overrides: KEY VALUE pairs, for data or a teacher that lie elsewhere now.
    Raises:
        UserError: no run folder, no record of its steps, or its data or teacher are missing or not
            those that it had.
    """
    recorded = read_first_steps(path)
    steps = len(recorded) if steps is None else steps
    if not 1 <= steps <= len(recorded):
        raise UserError(f"--steps is {steps}; allowed: 1 to {len(recorded)}, which are recorded")
    cfg = load_config(path / "config.yaml", overrides)
    dataset = load_dataset(cfg)
    run = RunFolder.of(cfg, dataset)
    held = todays_identity(read_object(path / "identity.json") or {})
    changes = difference(held, {key: run.identity.get(key) for key in held})
    if changes:
        raise UserError(
            f"{path} cannot be verified: what is here is another run than it was: {changes}"
        )

    torch.use_deterministic_algorithms(True, warn_only=True)
    environment = read_object(path / "environment.json") or {}
    count = cfg.SOLVER.THREADS or recorded_threads(path) or torch.get_num_threads()
    with threads(count):
        trainer = _make_trainer(cfg, dataset, run)
        here = describe_environment(trainer.device)
        found = _repeat(trainer, steps)

    told = _mismatch(recorded[:steps], found)
    if told is None:
        print(f"match: losses and weights of the first {steps} steps, bit for bit")
        return True
    print(f"no match: {told}")
    print(f"environment, recorded -> here: {_environments(environment, here)}")
    return False


def _make_trainer(cfg: CN, dataset: Dataset, run: RunFolder) -> Trainer:
    scaled = scaled_config(cfg)
    accelerator = make_accelerator(cfg)
    teacher = build_teacher(cfg, dataset.num_classes, run.teacher)
    if teacher is not None:
        teacher.to(accelerator.device)
    return Trainer(scaled, build_distiller(scaled, dataset, teacher), dataset, accelerator)


def _repeat(trainer: Trainer, steps: int) -> list[StepRecord]:
    phase, epoch = trainer.schedule[0]
    trainer.reach(phase)
    running = trainer.begin(epoch)
    for batch in itertools.islice(trainer.train_batches.epoch(epoch), steps):
        trainer.take(running, batch)
    return running.first_steps


def _mismatch(recorded: Sequence[StepRecord], found: Sequence[StepRecord]) -> str | None:
    """The first step that differs, in words; None if none does."""
    if len(found) < len(recorded):
        return f"the first epoch has {len(found)} steps here, at least {len(recorded)} then"
    for number, (then, now) in enumerate(zip(recorded, found, strict=True), start=1):
        loss, own = float.fromhex(then["loss"]), float.fromhex(now["loss"])
        if loss != own:
            return f"step {number} has the loss {own!r}, recorded is {loss!r}"
        if then["student"] != now["student"]:
            return f"step {number} has the recorded loss {loss!r}, but gives other weights"
    return None


def _environments(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs of all that may change bits; commands do not."""
    flat = [
        {key: value for key, value in flatten(dict(each)) if key != "command"}
        for each in (recorded, here)
    ]
    return difference(*flat) or "nothing that is recorded"

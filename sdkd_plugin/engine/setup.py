"""What a run is made of before its first step, each part made once: teacher, method, trainer."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from yacs.config import CfgNode as CN

from sdkd_plugin.config import epoch_keys, scaled_config
from sdkd_plugin.data.batches import EvalBatches
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.spec import chance, describe_classes
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.engine.build import build_distiller, build_teacher, check_teacher_data
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.evaluate import describe, evaluate
from sdkd_plugin.engine.events import RunEvents
from sdkd_plugin.engine.recorder import Recorder
from sdkd_plugin.engine.remaining import seconds_left
from sdkd_plugin.engine.schedule import schedule_notes
from sdkd_plugin.engine.threads import choose_threads
from sdkd_plugin.engine.tracker_kinds import about_run, chosen_kinds
from sdkd_plugin.engine.trackers import Trackers
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.environment import describe_environment, uncommitted_diff
from sdkd_plugin.runs.folder import RunFolder, recorded_threads
from sdkd_plugin.runs.imported import add_changed_code, changed_code, recorded_environment
from sdkd_plugin.runs.record import HEADLINE

Scores = Mapping[str, float]

NEAR_CHANCE = 0.05  # of the way from chance to 100 %


@dataclass(frozen=True)
class Setup:
    """What a run is made of, each part made once.

    Args:
        cfg: scaled to the run's epochs.
        given: the config as it was given, unscaled.
        teacher_score: of a teacher that was loaded; None otherwise.
        environment: as it is when the run starts or goes on.
    """

    cfg: CN
    given: CN
    dataset: Dataset
    accelerator: Accelerator
    distiller: Distiller
    teacher_score: Scores | None
    environment: dict[str, Any]


@dataclass(frozen=True)
class LoadedTeacher:
    """A trained teacher on its device, in eval mode, and what it scores there."""

    network: nn.Module
    scores: Scores


def prepare(
    cfg: CN,
    dataset: Dataset,
    folder: RunFolder,
    loaded: LoadedTeacher | None = None,
    accelerator: Accelerator | None = None,
) -> Setup:
    """Teacher, device, scaled config and the method around them.

    Args:
        loaded: the teacher of the folder's file, where somebody has loaded it already.
        accelerator: where there is one already, as of several processes.
    """
    scaled = scaled_config(cfg)
    accelerator = accelerator or make_accelerator(cfg)
    environment = describe_environment(accelerator.device)

    if folder.teacher is None:
        teacher = build_teacher(cfg, dataset.num_classes, None)
        scores = None
    else:
        loaded = loaded or load_teacher(cfg, dataset, folder, accelerator.device)
        teacher = loaded.network
        scores = loaded.scores
    distiller = build_distiller(scaled, dataset, teacher)
    return Setup(scaled, cfg, dataset, accelerator, distiller, scores, environment)


def load_teacher(
    cfg: CN, dataset: Dataset, folder: RunFolder, device: torch.device
) -> LoadedTeacher:
    """Loads the teacher that the folder's run names, and measures it."""
    assert folder.teacher is not None
    check_teacher_data(folder.teacher, dataset)
    network = build_teacher(cfg, dataset.num_classes, folder.teacher)
    assert network is not None
    scores = score_teacher(network.to(device), cfg, dataset, device)
    _warn_near_chance(scores, dataset)
    return LoadedTeacher(network, scores)


def score_teacher(teacher: nn.Module, cfg: CN, dataset: Dataset, device: torch.device) -> Scores:
    """Measures and prints what the teacher really knows; a wrong checkpoint shows here, not in the
    student's number.

    Raises:
        UserError: its logits are NaN or infinite.
    """
    scores = evaluate(lambda image: teacher(image)[0], EvalBatches(dataset, cfg, device))
    name = cfg.DISTILLER.TEACHER
    if not math.isfinite(scores["loss"]):
        raise UserError(
            f"teacher {name} cannot teach: its weights are finite, but its loss on the "
            f"{dataset.evaluates} images is {scores['loss']}; give another DISTILLER.TEACHER_CKPT"
        )
    print(f"teacher {name}: on the {dataset.evaluates} images: {describe(scores)}")
    return scores


def _warn_near_chance(scores: Scores, dataset: Dataset) -> None:
    """Tells of a teacher that knows next to nothing of these images: other classes, another order
    of them or another normalisation, where its file does not say so itself.
    """
    floor = chance(dataset.test)
    if scores[HEADLINE] < floor + NEAR_CHANCE * (100 - floor):
        print(
            f"warning: the teacher's top-1 of {scores[HEADLINE]:.2f} is near chance ({floor:.2f}): "
            "was it trained on these classes, in this order, at this image size and normalisation?"
        )


def start(setup: Setup, folder: RunFolder) -> tuple[Trainer, Recorder]:
    """A run at its beginning, which the folder then knows of, or after its last complete epoch."""
    trainer = Trainer(setup.cfg, setup.distiller, setup.dataset, setup.accelerator)
    log = setup.given.LOG
    writes = trainer.ranks.writes
    recorder = Recorder(folder, log.SAVE_CHECKPOINT_FREQ, writes)
    kinds = chosen_kinds(setup.given) if writes else ()
    recorder.left = lambda: seconds_left(recorder.history, trainer.schedule)
    trainer.resume(recorder)
    if recorder.writes and recorder.history:
        _say_changed_code(setup, folder, len(recorder.history))
    elif recorder.writes:
        folder.begin(setup.given, setup.environment, uncommitted_diff())
    if writes:
        about = about_run(setup.given, folder.path)
        if "tensorboard" in log.TRACKERS:
            recorder.trackers.append(RunEvents(folder.path, about["config"]))
        if kinds:
            recorder.trackers.append(Trackers(kinds, folder.path, about, len(recorder.history)))
    return trainer, recorder


def _say_changed_code(setup: Setup, folder: RunFolder, done: int) -> None:
    """Says so where a run goes on with other code from outside than it had, and takes it down."""
    changed = changed_code(recorded_environment(folder.path))
    if changed:
        print(
            f"warning: {folder.path} goes on after epoch {done} with other imported code than "
            f"before: {changed}"
        )
    setup.environment["plugins"] = add_changed_code(folder.path, done + 1)


def thread_count(cfg: CN, folder: RunFolder) -> int:
    """The run's thread count; says so where it is not what this process would take."""
    count = choose_threads(cfg.SOLVER.THREADS, recorded_threads(folder.path))
    own = cfg.SOLVER.THREADS or torch.get_num_threads()
    if count != own:
        print(f"{folder.path} began with {count} threads and goes on with them, not with {own}")
    return count


def say_start(trainer: Trainer, recorder: Recorder) -> None:
    """What is about to be trained, and where."""
    folder = recorder.folder
    done = len(recorder.history)
    total = len(trainer.schedule)
    images = len(trainer.dataset.train)
    print(f"{folder.path}: {total} epochs, {done} of them done, {images} training images")
    print(f"data: {describe_classes(trainer.dataset)}")
    _say_phases(trainer)
    for note in schedule_notes(trainer.cfg, dict.fromkeys(phase for phase, _ in trainer.schedule)):
        print(f"warning: {note}")


def _say_phases(trainer: Trainer) -> None:
    """Says it where a run has more epochs than SOLVER.EPOCHS, whose phases are counted apart."""
    cfg = trainer.cfg
    phases = Counter(phase.name for phase, _ in trainer.schedule)
    if sum(phases.values()) == cfg.SOLVER.EPOCHS:
        return
    counted = " + ".join(f"{epochs} {name!r}" for name, epochs in phases.items())
    keys = ", ".join(key for key in epoch_keys(cfg) if not key.startswith("SOLVER."))
    hint = ""
    if keys and not cfg.SOLVER.SCHEDULE_EPOCHS:
        hint = f"; with SOLVER.SCHEDULE_EPOCHS, such as 240, {keys} scales along with SOLVER.EPOCHS"
    print(f"SOLVER.EPOCHS is {cfg.SOLVER.EPOCHS}, but {cfg.DISTILLER.TYPE} trains {counted}{hint}")

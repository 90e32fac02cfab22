"""From a config to a finished run: data, folder, networks, training, record."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin.config import active_config, scaled_config
from sdkd_plugin.data.batches import EvalBatches
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.engine.build import build_distiller, build_teacher
from sdkd_plugin.engine.deploy import load_network
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.evaluate import METRICS, describe, evaluate
from sdkd_plugin.engine.memory import peak_memory
from sdkd_plugin.engine.recorder import Recorder
from sdkd_plugin.engine.threads import choose_threads, threads
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import teacher_checkpoint
from sdkd_plugin.runs.environment import describe_environment, uncommitted_diff
from sdkd_plugin.runs.folder import RunFolder, recorded_threads
from sdkd_plugin.runs.record import HEADLINE, Result
from sdkd_plugin.runs.teacher import MissingTeacherError, loads_teacher, teacher_path

Scores = Mapping[str, float]


def train(cfg: CN, resume: bool = False, train_teacher: bool = False) -> RunFolder:
    """Runs what `cfg` says unless its folder holds the result already; returns the folder.

    Args:
        cfg: the resolved, unscaled config.
        resume: go on with an unfinished run.
        train_teacher: train a missing teacher first, on the same data and schedule, with seed 0.
    Raises:
        UserError: anything a user can cause.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    if train_teacher:
        cfg = with_trained_teacher(cfg, resume)
    dataset = load_dataset(cfg)
    folder = RunFolder.of(cfg, dataset)
    if resume and not folder.started:
        _say_neighbour(folder)

    with folder.lock():
        folder.check(resume)
        result = folder.result
        if result is not None:
            top1 = result.last[HEADLINE]
            print(f"{folder.path} holds this run, finished: last top-1 {top1:.2f}")
            return folder

        try:
            with threads(thread_count(cfg, folder)):
                _train(cfg, dataset, folder)
        finally:
            folder.clear()  # a signal may come at the worst moment
    return folder


def _train(cfg: CN, dataset: Dataset, folder: RunFolder) -> None:
    """Trains what is left of a run, in its locked folder, and writes its record."""
    setup = prepare(cfg, dataset, folder)
    trainer, recorder = start(setup, folder)
    say_start(folder, trainer, recorder)
    trainer.run(recorder)
    make_result(setup, trainer, recorder).write(folder.path)


def say_start(folder: RunFolder, trainer: Trainer, recorder: Recorder) -> None:
    """What is about to be trained, and where."""
    done = len(recorder.history)
    total = len(trainer.schedule)
    images = len(trainer.dataset.train)
    print(f"{folder.path}: {total} epochs, {done} of them done, {images} training images")


def _say_neighbour(folder: RunFolder) -> None:
    """Tells who asks to go on with a run that a changed key has made it another one."""
    found = folder.neighbour()
    if found is not None:
        path, difference = found
        print(
            f"no unfinished run of this config; {path} differs in {difference}, which is another "
            "run: starting at epoch 1"
        )


def thread_count(cfg: CN, folder: RunFolder) -> int:
    """The run's thread count; says so where it is not what this process would take."""
    count = choose_threads(cfg.SOLVER.THREADS, recorded_threads(folder.path))
    own = cfg.SOLVER.THREADS or torch.get_num_threads()
    if count != own:
        print(f"{folder.path} began with {count} threads and goes on with them, not with {own}")
    return count


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
    cfg: CN, dataset: Dataset, folder: RunFolder, loaded: LoadedTeacher | None = None
) -> Setup:
    """Teacher, device, scaled config and the method around them.

    Args:
        loaded: the teacher of the folder's file, where somebody has loaded it already.
    """
    scaled = scaled_config(cfg)
    accelerator = make_accelerator(cfg)
    environment = describe_environment(accelerator.device)

    if folder.teacher is None:
        teacher, scores = build_teacher(cfg, dataset.num_classes, None), None
    else:
        loaded = loaded or load_teacher(cfg, dataset, folder, accelerator.device)
        teacher, scores = loaded.network, loaded.scores
    distiller = build_distiller(scaled, dataset, teacher)
    return Setup(scaled, cfg, dataset, accelerator, distiller, scores, environment)


def load_teacher(
    cfg: CN, dataset: Dataset, folder: RunFolder, device: torch.device
) -> LoadedTeacher:
    """Loads the teacher that the folder's run names, and measures it."""
    network = build_teacher(cfg, dataset.num_classes, folder.teacher)
    assert network is not None
    return LoadedTeacher(network.to(device), score_teacher(network, cfg, dataset, device))


def start(setup: Setup, folder: RunFolder) -> tuple[Trainer, Recorder]:
    """A run at its beginning, which the folder then knows of, or after its last complete epoch."""
    recorder = Recorder(folder, setup.given.LOG.SAVE_CHECKPOINT_FREQ)
    trainer = Trainer(setup.cfg, setup.distiller, setup.dataset, setup.accelerator)
    trainer.resume(recorder)
    if not recorder.history:
        folder.begin(setup.given, setup.environment, uncommitted_diff())
    return trainer, recorder


def with_trained_teacher(cfg: CN, resume: bool) -> CN:
    """The config with DISTILLER.TEACHER_CKPT set to a teacher trained here, unless the teacher's
    file exists already.

    Raises:
        UserError: DISTILLER.TEACHER_CKPT names a file that does not exist: more likely a typo than
            a wish to train.
    """
    if not loads_teacher(cfg):
        return cfg
    try:
        teacher_path(cfg)
        return cfg
    except MissingTeacherError:
        if cfg.DISTILLER.TEACHER_CKPT:
            raise

    teacher_cfg = cfg.clone()
    teacher_cfg.defrost()
    teacher_cfg.DISTILLER.TYPE = "NONE"
    teacher_cfg.DISTILLER.STUDENT = cfg.DISTILLER.TEACHER
    teacher_cfg.EXPERIMENT.NAME = ""
    teacher_cfg.EXPERIMENT.TAG = f"vanilla,{cfg.DISTILLER.TEACHER}"
    teacher_cfg.SOLVER.SEED = 0  # one teacher for all students, whatever their seed
    teacher_cfg.freeze()
    print(f"training the teacher {cfg.DISTILLER.TEACHER} first")
    folder = train(teacher_cfg, resume)

    cfg = cfg.clone()
    cfg.defrost()
    cfg.DISTILLER.TEACHER_CKPT = str(folder.path / "student_latest")
    cfg.freeze()
    return cfg


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


def make_result(setup: Setup, trainer: Trainer, recorder: Recorder) -> Result:
    """The record of a run that has trained all its epochs."""
    cfg = setup.given
    dataset = setup.dataset
    method = trainer.method
    teacher_score = setup.teacher_score
    if method.teacher is not None and teacher_score is None:  # trained along with the student
        teacher_score = score_teacher(method.teacher.eval(), cfg, dataset, trainer.device)

    history = recorder.history
    best = recorder.best
    assert best is not None  # the last phase always scores
    # an epoch of a run that an earlier version began may lack the later metrics
    metrics = {n: m for n, m in METRICS.items() if f"test_{n}" in best.keys() & history[-1].keys()}
    train_seconds = sum(row["train_seconds"] for row in history)
    return Result(
        method=cfg.DISTILLER.TYPE,
        teacher=cfg.DISTILLER.TEACHER if teacher_score else None,
        student=cfg.DISTILLER.STUDENT,
        seed=cfg.SOLVER.SEED,
        epochs=cfg.SOLVER.EPOCHS,
        schedule_epochs=cfg.SOLVER.SCHEDULE_EPOCHS or cfg.SOLVER.EPOCHS,
        dataset=dataset.name,
        evaluates=dataset.evaluates,
        train_images=len(dataset.train),
        metrics=metrics,
        last={name: history[-1][f"test_{name}"] for name in metrics},
        best={name: best[f"test_{name}"] for name in metrics},
        best_epoch=best["epoch"],
        teacher_score=teacher_score,
        wall_seconds=train_seconds + sum(row.get("test_seconds", 0) for row in history),
        images_per_second=len(dataset.train) * len(history) / train_seconds,
        peak_memory_mib=peak_memory(trainer.device) / 2**20,
        group_size=max(row.get("group_size", 1) for row in history),
        deployed_parameters=sum(p.numel() for p in method.deployed().parameters()),
        extra_parameters=method.get_extra_parameters(),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        config=active_config(cfg),
        identity=recorder.folder.identity,
        environment=setup.environment,
    )


def score_checkpoint(cfg: CN, path: str) -> Scores:
    """Loads a network, prints its scores on the evaluation split and returns them.

    Args:
        cfg: DISTILLER.STUDENT names the model and may be empty if the file says what it holds;
            DATASET names the images.
        path: a student or teacher file, or "pretrain" for the published teacher's place.
    """
    name = cfg.DISTILLER.STUDENT
    dataset = load_dataset(cfg)
    file = teacher_checkpoint(name) if path == "pretrain" else path
    name, model = load_network(file, name, dataset.num_classes)

    device = make_accelerator(cfg).device
    layout = torch.channels_last if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format
    model.to(device).to(memory_format=layout).eval()
    batches = EvalBatches(dataset, cfg, device)
    scores = evaluate(lambda image: model(image)[0], tqdm(batches, disable=None, leave=False))
    print(f"{name} on {len(dataset.test)} {dataset.evaluates} images: {describe(scores)}")
    return scores

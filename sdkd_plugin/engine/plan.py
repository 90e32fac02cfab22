"""`--dry-run`: what a run would do and cost, without doing it."""

import itertools
import time
from dataclasses import dataclass

import torch
from yacs.config import CfgNode as CN

from sdkd_plugin.config import active_config, epoch_keys, scaled_config
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.data.spec import describe_classes
from sdkd_plugin.distillers.base import Distiller, Phase
from sdkd_plugin.engine.build import build_distiller, build_teacher, check_teacher_data
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.schedule import schedule_notes
from sdkd_plugin.engine.threads import choose_threads, threads
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.models import build_model
from sdkd_plugin.runs.teacher import MissingTeacherError, loads_teacher, teacher_path
from sdkd_plugin.settings import flatten

WARM_STEPS = 2
TIMED_STEPS = 6
TIMED_EVAL_BATCHES = 4


@dataclass(frozen=True)
class Plan:
    """What a run would train and cost.

    Args:
        warning: why a random teacher was timed instead of the trained one; None otherwise.
        costs: for each phase, seconds of training and of evaluation per epoch.
        disk: bytes its folder will hold, about.
    """

    dataset: Dataset
    distiller: Distiller
    device: torch.device
    warning: str | None
    costs: list[tuple[Phase, float, float]]
    disk: int

    @property
    def epochs(self) -> int:
        """Of all phases."""
        return sum(phase.epochs for phase, _, _ in self.costs)

    @property
    def hours(self) -> float:
        """All epochs of all phases."""
        return sum(phase.epochs * (train + score) for phase, train, score in self.costs) / 3600


def make_plan(cfg: CN) -> Plan:
    """Builds what the run would build and times a few steps of each phase. `cfg` is unscaled.

    The cost needs no trained teacher: where the checkpoint is missing a random one is timed.
    """
    dataset = load_dataset(cfg)
    warning = None
    try:
        checkpoint = teacher_path(cfg) if loads_teacher(cfg) else None
        if checkpoint is not None:
            check_teacher_data(checkpoint, dataset)
        teacher = build_teacher(cfg, dataset.num_classes, checkpoint)
    except MissingTeacherError as error:
        warning = str(error)
        teacher = build_model(cfg.DISTILLER.TEACHER, dataset.num_classes).eval()

    scaled = scaled_config(cfg)
    distiller = build_distiller(scaled, dataset, teacher)
    trainer = Trainer(scaled, distiller, dataset, make_accelerator(cfg))
    costs = []
    for phase in distiller.phases(scaled):
        trainer.enter(phase, begin=True)
        score = time_evaluation(trainer) if phase.scores else 0.0
        costs.append((phase, time_training(trainer), score))

    student = 4 * sum(value.numel() for value in distiller.deployed().state_dict().values())
    whole = student + 4 * sum(
        value.numel()
        for name, value in distiller.state_dict().items()
        if not name.startswith("teacher.")
    )
    kept = sum(phase.epochs for phase, _, _ in costs) // cfg.LOG.SAVE_CHECKPOINT_FREQ
    # latest, its previous, best
    return Plan(dataset, distiller, trainer.device, warning, costs, (3 + kept) * (whole + student))


def show_run_plan(cfg: CN) -> None:
    """Prints the resolved config, the scaled epoch keys, parameter counts and an epoch's cost from
    a few timed steps.
    """
    print("config (this method's part):")
    for key, value in flatten(active_config(cfg)):
        print(f"  {key}: {value!r}")
    print(
        f"epoch-valued keys, written for {cfg.SOLVER.SCHEDULE_EPOCHS or cfg.SOLVER.EPOCHS}, scaled "
        f"to {cfg.SOLVER.EPOCHS}:"
    )
    shown = dict(flatten(scaled_config(cfg)))
    for key in epoch_keys(cfg):
        print(f"  {key}: {shown[key]!r}")

    count = choose_threads(cfg.SOLVER.THREADS, None)
    with threads(count):
        plan = make_plan(cfg)
    dataset = plan.dataset
    distiller = plan.distiller
    print(
        f"data: {dataset.name}, {len(dataset.train)} training images, {len(dataset.test)} "
        f"{dataset.evaluates} images"
    )
    print(describe_classes(dataset))
    for name, module in (("student", distiller.student), ("teacher", distiller.teacher)):
        if module is not None:
            print(f"parameters of the {name}: {sum(p.numel() for p in module.parameters()):,}")

    print(f"parameters training adds: {distiller.get_extra_parameters():,}")
    if plan.warning:
        print(f"warning: {plan.warning}")
    for note in schedule_notes(scaled_config(cfg), [phase for phase, _, _ in plan.costs]):
        print(f"warning: {note}")
    print(f"expected cost, from {TIMED_STEPS} timed steps on {plan.device} with {count} threads:")
    for phase, train, score in plan.costs:
        print(
            f"  {phase.epochs} epochs {phase.name!r}, each {train:.1f} s of training, {score:.1f} "
            "s of evaluation"
        )
    print(f"  altogether {plan.hours:.2f} hours, {plan.disk / 2**20:.0f} MiB on disk")


def time_training(trainer: Trainer) -> float:
    """Seconds of one epoch's training steps, extrapolated from a few. Changes the trainer's
    weights.
    """
    running = trainer.begin(1)
    began = 0.0
    timed = 0
    batches = itertools.islice(trainer.train_batches.epoch(1), WARM_STEPS + TIMED_STEPS)
    for step, batch in enumerate(batches, start=1):
        if step <= WARM_STEPS + 1:
            _synchronise(trainer.device)
            began = time.perf_counter()
            timed = 0
        trainer.take(running, batch)
        timed += 1
    _synchronise(trainer.device)
    return (time.perf_counter() - began) / timed * len(trainer.train_batches)


@torch.no_grad()
def time_evaluation(trainer: Trainer) -> float:
    """Seconds of scoring the evaluation split once, extrapolated from a few batches."""
    trainer.distiller.eval()
    network = trainer.method.deployed()
    began = time.perf_counter()
    batches = 0
    for image, _ in itertools.islice(trainer.eval_batches, TIMED_EVAL_BATCHES):
        network(image)
        batches += 1
    _synchronise(trainer.device)
    return (time.perf_counter() - began) / batches * len(trainer.eval_batches)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

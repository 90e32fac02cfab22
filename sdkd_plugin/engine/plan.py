"""`--dry-run`: what a run would do and cost, without doing it."""

import itertools
import time

import torch
from yacs.config import CfgNode as CN

from sdkd_plugin.config import active_config, epoch_keys, flatten, scaled_config
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine.build import MissingTeacherError, build_distiller, build_teacher
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.models import build_model

WARM_STEPS, TIMED_STEPS, TIMED_EVAL_BATCHES = 2, 6, 4


def show_plan(cfg: CN) -> None:
    """Prints the resolved config, the scaled epoch keys, parameter counts and an epoch's cost from a few timed steps.

    The cost needs no trained teacher: where the checkpoint is missing it says so and times a random one.
    """
    scaled = scaled_config(cfg)
    print("config (this method's part):")
    for key, value in flatten(active_config(cfg)):
        print(f"  {key}: {value!r}")
    print(f"epoch-valued keys, written for {cfg.SOLVER.SCHEDULE_EPOCHS or cfg.SOLVER.EPOCHS}, scaled to {cfg.SOLVER.EPOCHS}:")
    shown = dict(flatten(scaled))
    for key in epoch_keys(cfg):
        print(f"  {key}: {shown[key]!r}")
    dataset = load_dataset(cfg)
    try:
        teacher = build_teacher(cfg, dataset.num_classes)
    except MissingTeacherError as error:
        print(f"warning: {error}")
        teacher = build_model(cfg.DISTILLER.TEACHER, dataset.num_classes).eval()
    distiller = build_distiller(cfg, dataset, teacher)
    print(f"data: {dataset.name}, {len(dataset.train)} training images, {len(dataset.test)} {dataset.evaluates} images")
    for name, module in (("student", distiller.student), ("teacher", teacher)):
        if module is not None:
            print(f"parameters of the {name}: {sum(p.numel() for p in module.parameters()):,}")
    print(f"parameters training adds: {distiller.get_extra_parameters():,}")
    trainer = Trainer(scaled, distiller, dataset)
    print(f"expected cost, from {TIMED_STEPS} timed steps on {trainer.device} with {torch.get_num_threads()} threads:")
    hours = 0.0
    for stage in distiller.stages(scaled):
        trainer.enter(stage, begin=True)
        train_seconds = time_training(trainer)
        eval_seconds = time_evaluation(trainer) if stage.scores else 0.0
        hours += stage.epochs * (train_seconds + eval_seconds) / 3600
        print(
            f"  {stage.epochs} epochs {stage.name!r}, each {train_seconds:.1f} s of training, {eval_seconds:.1f} s of evaluation"
        )
    print(f"  altogether {hours:.2f} hours")


def time_training(trainer: Trainer) -> float:
    """Seconds of one epoch's training steps, extrapolated from a few. Changes the trainer's weights."""
    trainer.distiller.train()
    validation, began, timed = trainer.validation(1), 0.0, 0
    for step, batch in enumerate(itertools.islice(trainer.train_batches.epoch(1), WARM_STEPS + TIMED_STEPS), start=1):
        if step <= WARM_STEPS + 1:
            _synchronise(trainer.device)
            began, timed = time.perf_counter(), 0
        trainer.step(batch, 1, step, next(validation))
        timed += 1
    _synchronise(trainer.device)
    return (time.perf_counter() - began) / timed * len(trainer.train_batches)


@torch.no_grad()
def time_evaluation(trainer: Trainer) -> float:
    """Seconds of scoring the evaluation split once, extrapolated from a few batches."""
    trainer.distiller.eval()
    network = trainer.bare.deployed()
    began, batches = time.perf_counter(), 0
    for image, _ in itertools.islice(trainer.eval_batches, TIMED_EVAL_BATCHES):
        network(image)
        batches += 1
    _synchronise(trainer.device)
    return (time.perf_counter() - began) / batches * len(trainer.eval_batches)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

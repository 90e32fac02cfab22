"""From a config to a finished run: data, teacher, folder, training, result."""

import time
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin.config import active_config, scaled_config
from sdkd_plugin.data.batches import EvalBatches
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.engine.build import (
    MissingTeacherError,
    build_distiller,
    build_teacher,
    loads_teacher,
    teacher_path,
)
from sdkd_plugin.engine.deploy import load_network
from sdkd_plugin.engine.evaluate import Score, evaluate
from sdkd_plugin.engine.memory import peak_memory
from sdkd_plugin.engine.trainer import Trainer, make_accelerator
from sdkd_plugin.files import sha256, write_json
from sdkd_plugin.models import teacher_checkpoint
from sdkd_plugin.runs.environment import describe_environment, uncommitted_diff
from sdkd_plugin.runs.folder import RunFolder, data_identity, run_identity


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
    teacher_hash = sha256(teacher_path(cfg)) if loads_teacher(cfg) else None
    folder = RunFolder(cfg, run_identity(cfg, data_identity(dataset), teacher_hash))
    with folder.lock():
        folder.check(resume)
        if folder.result is not None:
            print(
                f"{folder.path} holds this run, finished: last top-1 "
                f"{folder.result['last']['top1']:.2f}"
            )
            return folder
        device = make_accelerator(cfg).device
        environment = describe_environment(device)
        teacher = build_teacher(cfg, dataset.num_classes)
        teacher_score = (
            score_teacher(teacher.to(device), cfg, dataset, device) if loads_teacher(cfg) else None
        )
        trainer = Trainer(
            scaled_config(cfg), build_distiller(cfg, dataset, teacher), dataset, folder
        )
        trainer.resume()
        if not trainer.history:
            folder.begin(cfg, environment, uncommitted_diff())
        done, total = len(trainer.history), len(trainer.schedule)
        print(
            f"{folder.path}: {total} epochs, {done} of them done, {len(dataset.train)} training "
            f"images"
        )
        trainer.run()
        if teacher is not None and teacher_score is None:  # trained along with the student
            teacher_score = score_teacher(teacher.eval(), cfg, dataset, device)
        write_json(
            folder.path / "result.json",
            make_result(cfg, trainer, dataset, teacher_score, environment),
        )
    return folder


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
    teacher_cfg.DISTILLER.TYPE, teacher_cfg.DISTILLER.STUDENT = "NONE", cfg.DISTILLER.TEACHER
    teacher_cfg.EXPERIMENT.NAME, teacher_cfg.EXPERIMENT.TAG = "", f"vanilla,{cfg.DISTILLER.TEACHER}"
    teacher_cfg.SOLVER.SEED = 0  # one teacher for all students, whatever their seed
    teacher_cfg.freeze()
    print(f"training the teacher {cfg.DISTILLER.TEACHER} first")
    folder = train(teacher_cfg, resume)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DISTILLER.TEACHER_CKPT = str(folder.path / "student_latest")
    cfg.freeze()
    return cfg


def score_teacher(teacher: nn.Module, cfg: CN, dataset: Dataset, device: torch.device) -> Score:
    """Measures and prints what the teacher really knows; a wrong checkpoint shows here, not in the
    student's number.
    """
    score = evaluate(lambda image: teacher(image)[0], EvalBatches(dataset, cfg, device))
    print(f"teacher {cfg.DISTILLER.TEACHER}: on the {dataset.evaluates} images: {score}")
    return score


def make_result(
    cfg: CN, trainer: Trainer, dataset: Dataset, teacher: Score | None, environment: dict[str, Any]
) -> dict[str, Any]:
    """Everything a table or a sceptical reader asks of one run. Accuracies in percent, times in
    seconds.
    """
    last, best = trainer.history[-1], trainer.best
    train_seconds = sum(row["train_seconds"] for row in trainer.history)
    return {
        "method": cfg.DISTILLER.TYPE,
        "teacher": cfg.DISTILLER.TEACHER if teacher else None,
        "student": cfg.DISTILLER.STUDENT,
        "seed": cfg.SOLVER.SEED,
        "epochs": cfg.SOLVER.EPOCHS,
        "schedule_epochs": cfg.SOLVER.SCHEDULE_EPOCHS or cfg.SOLVER.EPOCHS,
        "dataset": dataset.name,
        "evaluates": dataset.evaluates,
        "train_images": len(dataset.train),
        "last": {"top1": last["test_top1"], "top5": last["test_top5"]},
        "best": {"top1": best["test_top1"], "top5": best["test_top5"], "epoch": best["epoch"]},
        "teacher_score": {"top1": teacher.top1, "top5": teacher.top5} if teacher else None,
        "wall_seconds": train_seconds + sum(row.get("test_seconds", 0) for row in trainer.history),
        "images_per_second": len(dataset.train) * len(trainer.history) / train_seconds,
        "peak_memory_mib": peak_memory(trainer.device) / 2**20,
        "deployed_parameters": sum(p.numel() for p in trainer.method.deployed().parameters()),
        "extra_parameters": trainer.method.get_extra_parameters(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": active_config(cfg),
        "identity": trainer.folder.identity,
        "environment": environment,
    }


def score_checkpoint(cfg: CN, path: str) -> Score:
    """Loads a network, prints its scores on the evaluation split and returns them.

    Args:
        cfg: DISTILLER.STUDENT names the model and may be empty if the file says what it holds;
            DATASET names the images.
        path: a student or teacher file, or "pretrain" for the published teacher's place.
    """
    name = cfg.DISTILLER.STUDENT
    dataset = load_dataset(cfg)
    name, model = load_network(
        teacher_checkpoint(name) if path == "pretrain" else path, name, dataset.num_classes
    )
    device = make_accelerator(cfg).device
    layout = torch.channels_last if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format
    model.to(device, memory_format=layout).eval()
    score = evaluate(
        lambda image: model(image)[0],
        tqdm(EvalBatches(dataset, cfg, device), disable=None, leave=False),
    )
    print(f"{name} on {len(dataset.test)} {dataset.evaluates} images: {score}")
    return score

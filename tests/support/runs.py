"""Run folders with chosen numbers, written by the engine's own writers, so that a change of their
layout shows here.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from sdkd_plugin.config import load_config
from sdkd_plugin.data.cifar100 import MEAN, STD
from sdkd_plugin.engine.evaluate import Score
from sdkd_plugin.engine.run import make_result
from sdkd_plugin.files import write_json
from sdkd_plugin.runs.folder import RunFolder, run_identity
from sdkd_plugin.table.published import CIFAR100

CONSTANTS = {"DATASET.MEAN": list(MEAN), "DATASET.STD": list(STD)}
ENVIRONMENT = {
    "command": ["tools/train.py"],
    "commit": "abc1234",
    "uncommitted_changes": False,
    "versions": {"python": "3.11", "torch": "2.14"},
    "device": "cpu Test",
    "threads": 1,
}


def write_run(
    prefix: Path,
    method: str,
    seed: int,
    top1: Sequence[float | None],
    overrides: Sequence[str] = (),
    data: str = CIFAR100,
    finished: bool = True,
    name: str = "",
    student: str = "resnet20",
    seconds: float = 1800.0,
    device: str = "cpu Test",
) -> Path:
    """Writes one run taught by resnet56 with the given top-1 per epoch; returns its folder."""
    keys = [
        "DISTILLER.TYPE",
        method,
        "DISTILLER.TEACHER",
        "resnet56",
        "DISTILLER.STUDENT",
        student,
        "SOLVER.SEED",
        str(seed),
    ]
    keys += [
        "SOLVER.EPOCHS",
        str(sum(value is not None for value in top1)),
        "SOLVER.SCHEDULE_EPOCHS",
        "240",
    ]
    keys += [
        "SOLVER.WEIGHT_DECAY",
        "0.0005",
        "LOG.PREFIX",
        str(prefix),
        "EXPERIMENT.PROJECT",
        "fake",
    ]
    cfg = load_config(None, [*keys, "EXPERIMENT.NAME", name, "EXPERIMENT.TAG", method, *overrides])
    teacher = None if method == "NONE" else "0123456789abcdef"
    folder = RunFolder(cfg, run_identity(cfg, {**CONSTANTS, "data": data}, teacher))
    folder.path.mkdir(parents=True)
    environment = {**ENVIRONMENT, "device": device}
    folder.begin(cfg, environment, "")
    history = _history(top1, seconds)
    folder.write_metrics(history)
    if finished:
        trainer = SimpleNamespace(
            history=history,
            best=max(
                (row for row in history if "test_top1" in row), key=lambda row: row["test_top1"]
            ),
            device=torch.device("cpu"),
            method=SimpleNamespace(
                deployed=lambda: nn.Linear(9, 10), get_extra_parameters=lambda: 7
            ),
            folder=folder,
        )
        images = SimpleNamespace(name="cifar100", evaluates="test", train=range(50000))
        score = Score(72.34, 91.0, 1.2) if teacher else None
        write_json(
            folder.path / "result.json", make_result(cfg, trainer, images, score, environment)
        )
    return folder.path


def _history(top1: Sequence[float | None], seconds: float) -> list[dict]:
    """One row per epoch; None is an epoch of pre-training, which scores nothing."""
    history, before = [], None
    for value in top1:
        phase = "pre" if value is None else "train"
        epoch = before["epoch"] + 1 if before and before["phase"] == phase else 1
        row = {
            "phase": phase,
            "epoch": epoch,
            "lr": 0.05,
            "train_loss": 1.0,
            "train_seconds": 0.75 * seconds / len(top1),
        }
        if value is not None:
            row |= {
                "test_loss": 1.0,
                "test_top1": value,
                "test_top5": 90.0,
                "test_seconds": 0.25 * seconds / len(top1),
            }
        history.append(row)
        before = row
    return history

"""Run folders with chosen numbers, written by the engine's own writers.

So a change of their layout shows here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from yacs.config import CfgNode as CN

from sdkd_plugin.config import active_config, load_config
from sdkd_plugin.data.cifar100 import MEAN, STD
from sdkd_plugin.runs.folder import RunFolder, run_identity
from sdkd_plugin.runs.read import Run
from sdkd_plugin.runs.record import ACCURACIES, Metric, Result
from sdkd_plugin.table.published import CIFAR100

CONSTANTS = {"DATASET.MEAN": list(MEAN), "DATASET.STD": list(STD)}
METRICS = {
    **ACCURACIES,
    "loss": Metric("loss", "Cross entropy", "nats", "lower", decimals=4),
    "ece": Metric("ECE", "Expected calibration error", "%", "lower"),
}
ENVIRONMENT = {
    "command": ["tools/train.py"],
    "commit": "abc1234",
    "uncommitted_changes": False,
    "versions": {"python": "3.11", "torch": "2.14"},
    "device": "cpu Test",
    "threads": 1,
}


RESULT = Result(
    method="KD",
    teacher="resnet56",
    student="resnet20",
    seed=0,
    epochs=240,
    schedule_epochs=240,
    dataset="cifar100",
    evaluates="test",
    train_images=50000,
    metrics=METRICS,
    last={"top1": 70.0, "top5": 90.0, "loss": 1.0, "ece": 5.0},
    best={"top1": 71.0, "top5": 90.0, "loss": 1.0, "ece": 5.0},
    best_epoch=239,
    teacher_score={"top1": 72.34, "top5": 91.0, "loss": 1.2, "ece": 6.0},
    wall_seconds=3600.0,
    images_per_second=400.0,
    peak_memory_mib=900.0,
    deployed_parameters=100,
    extra_parameters=7,
    finished="2026-01-01T00:00:00Z",
    config={},
    identity={},
    environment=ENVIRONMENT,
)


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
    metrics: Mapping[str, Metric] = METRICS,
    scores: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """Writes one run taught by resnet56 with the given top-1 per epoch; returns its folder.

    Args:
        metrics: what its record has; of a name that is not in METRICS `scores` has the values.
        scores: by metric, the value of each scored epoch.
    """
    epochs = sum(value is not None for value in top1)
    keys = ["DISTILLER.TYPE", method, "SOLVER.SEED", str(seed)]
    keys += ["DISTILLER.TEACHER", "resnet56", "DISTILLER.STUDENT", student]
    keys += ["SOLVER.EPOCHS", str(epochs), "SOLVER.SCHEDULE_EPOCHS", "240"]
    keys += ["SOLVER.WEIGHT_DECAY", "0.0005", "LOG.PREFIX", str(prefix)]
    keys += ["EXPERIMENT.PROJECT", "fake", "EXPERIMENT.NAME", name, "EXPERIMENT.TAG", method]
    cfg = load_config(None, [*keys, *overrides])
    teacher = None if method == "NONE" else "0123456789abcdef"
    folder = RunFolder(cfg, run_identity(cfg, {**CONSTANTS, "data": data}, teacher))
    folder.path.mkdir(parents=True)
    environment = {**ENVIRONMENT, "device": device}
    folder.begin(cfg, environment, "")

    history = _history(top1, seconds)
    scored = [row for row in history if "test_top1" in row]
    for metric, values in (scores or {}).items():
        for row, value in zip(scored, values, strict=True):
            row[f"test_{metric}"] = value
    folder.write_metrics(history)
    if finished:
        make_result(cfg, history, folder.identity, environment, metrics).write(folder.path)
    return folder.path


def bare_run(
    method="KD",
    seed=0,
    top1=70.0,
    teacher="resnet56",
    student="resnet20",
    finished=True,
    path=None,
    **changes,
) -> Run:
    """A run with the fewest keys; `changes` with __ for the dot are added to its identity."""
    identity = {
        "DISTILLER.TYPE": method,
        "DISTILLER.STUDENT": student,
        "SOLVER.SEED": seed,
        "SOLVER.EPOCHS": 240,
        "DATASET.VAL_FRACTION": 0.0,
        "data": "d",
        "teacher": None if method == "NONE" else f"{teacher}-hash",
    }
    if method != "NONE":
        identity |= {"DISTILLER.TEACHER": teacher, f"{method}.TAU": 4.0}
    identity |= {key.replace("__", "."): value for key, value in changes.items()}
    result = replace(RESULT, last={"top1": top1}, best={"top1": top1 + 1})
    name = path or "-".join(map(str, (method, teacher, student, seed, *changes.values())))
    return Run(Path(name), identity, result if finished else None, 240, {})


def make_result(
    cfg: CN,
    history: list[dict],
    identity: dict,
    environment: dict,
    metrics: Mapping[str, Metric] = METRICS,
) -> Result:
    """The record of a run with this history and a teacher of 72.34 %."""
    scored = [row for row in history if "test_top1" in row]
    best = max(scored, key=lambda row: row["test_top1"])
    taught = identity["teacher"] is not None
    teacher_score = {key: value for key, value in RESULT.teacher_score.items() if key in metrics}

    return replace(
        RESULT,
        method=cfg.DISTILLER.TYPE,
        teacher=cfg.DISTILLER.TEACHER if taught else None,
        student=cfg.DISTILLER.STUDENT,
        seed=cfg.SOLVER.SEED,
        epochs=cfg.SOLVER.EPOCHS,
        schedule_epochs=cfg.SOLVER.SCHEDULE_EPOCHS or cfg.SOLVER.EPOCHS,
        metrics=metrics,
        last={name: history[-1][f"test_{name}"] for name in metrics},
        best={name: best[f"test_{name}"] for name in metrics},
        best_epoch=best["epoch"],
        teacher_score=teacher_score if taught else None,
        wall_seconds=sum(row["train_seconds"] + row.get("test_seconds", 0.0) for row in history),
        config=active_config(cfg),
        identity=identity,
        environment=environment,
    )


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
                "test_ece": 5.0,
                "test_seconds": 0.25 * seconds / len(top1),
            }
        history.append(row)
        before = row
    return history

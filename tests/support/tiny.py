"""The smallest real runs: handwritten digits, resnet14 teaching resnet8, three steps an epoch; and
what runs leave behind.
"""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import Case
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin import weights
from sdkd_plugin.__main__ import main
from sdkd_plugin.config import load_config
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

BASE = {
    "DATASET.TYPE": "digits",
    "DATASET.SUBSET": 0.1,  # 143 images: batches of 64, 64 and 15
    "DISTILLER.TEACHER": "resnet14",
    "DISTILLER.STUDENT": "resnet8",
    "SOLVER.EPOCHS": 3,
    "SOLVER.LR_DECAY_STAGES": [2],
}
# the only columns in which equal runs differ: what they took, and with how many others
TIMES = {"train_seconds", "test_seconds", "images_per_second", "group_size"}
CHECKPOINTS = ("latest", "best", "student_latest", "student_best")


def method_overrides(case: Case, teacher: Path) -> dict[str, Any]:
    """A run of the case's method: 2 epochs for 240, batches that fit a split of the 143 images,
    small steps for any weight.
    """
    short = {"SOLVER.EPOCHS": 2, "SOLVER.SCHEDULE_EPOCHS": 240, "SOLVER.LR_DECAY_STAGES": [150]}
    small = {"SOLVER.BATCH_SIZE": 24, "SOLVER.LR": 0.002}
    return {
        "DISTILLER.TYPE": case.name,
        "DISTILLER.TEACHER_CKPT": teacher,
        **short,
        **small,
        **case.overrides,
    }


class KilledError(Exception):
    """What `train_until_killed` raises inside a step."""


def words(overrides: dict[str, Any]) -> list[str]:
    """The overrides as the command line takes them."""
    return [str(word) for pair in overrides.items() for word in pair]


def tiny_config(folder: Path, overrides: dict[str, Any] | None = None) -> CN:
    """A run of three epochs that writes under `folder`."""
    return load_config(None, words({**BASE, "LOG.PREFIX": folder, **(overrides or {})}))


def tiny_yaml(folder: Path, overrides: dict[str, Any] | None = None) -> str:
    """The same as a yaml file inside `folder`, for --cfg."""
    path = folder / "tiny.yaml"
    path.write_text(tiny_config(folder / "runs", overrides).dump())
    return str(path)


def save_teacher(path: Path, name: str = "resnet14", num_classes: int = 10, seed: int = 0) -> Path:
    """Writes a checkpoint of an untrained network.

    It is as good a teacher as any where accuracy does not matter.
    """
    with torch_seeded(seed, "test teacher"):
        torch.save({"model": build_model(name, num_classes).state_dict()}, path)
    return path


def train_until_killed(cfg: CN, steps: int, **options: bool) -> None:
    """Trains and breaks off inside step number `steps` + 1, counted over this call's epochs."""
    whole_step, calls = Trainer.step, itertools.count()

    def step(self, *arguments):
        if next(calls) == steps:
            raise KilledError
        return whole_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Trainer, "step", step)
        train(cfg, **options)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint, without the times that its history holds."""
    state = weights.load(path)
    for row in state.get("history", []):
        for key in TIMES & row.keys():
            del row[key]
    return state


def metrics(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without its times."""
    rows = csv.DictReader((folder / "metrics.csv").open())
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def assert_bits_equal(one: Any, two: Any, where: str = "") -> None:
    """Nested dicts, lists, tensors and plain values: the same keys, types, shapes and bits."""
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_bits_equal(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for index, (first, second) in enumerate(zip(one, two, strict=True)):
            assert_bits_equal(first, second, f"{where}/{index}")
    elif isinstance(one, Tensor):
        assert one.dtype == two.dtype and torch.equal(one, two), where
    else:
        assert one == two, where


def assert_same_run(one: Path, two: Path) -> None:
    """Both folders hold the same finished run.

    Checkpoints to the bit, metrics and results but for times.
    """
    for name in CHECKPOINTS:
        assert_bits_equal(read(one / name), read(two / name), name)
    assert metrics(one) == metrics(two)
    assert [result(one)[key] for key in ("last", "best")] == [
        result(two)[key] for key in ("last", "best")
    ]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file under `folder` with its bytes and time of change, but for empty lock files."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
    }


def state_copy(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's state that later training does not change."""
    return {key: value.clone() for key, value in module.state_dict().items()}


def train_command(yaml: str, *options: str, **overrides: object) -> int:
    """`train` with the options, then overrides spelled with two underscores for a dot."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return main(["train", "--cfg", yaml, *options, *words(dotted)])

"""Run folders, found and read. A torn or foreign one is kept with the reason, never dropped; torch
is not needed here.
"""

import csv
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sdkd_plugin.errors import UserError

# a folder with any of these claims to be a run
MARKERS = ("identity.json", "result.json", "metrics.csv")
WORKLOG = "worklog.txt"  # the log of mdistiller's trainer, which names neither method nor seed
VANILLA = "NONE"
HOME = "sdkd_plugin"  # the host that trained a run, unless its identity names another

# Identity keys that this package's own loop never reads (mdistiller's does), so that they change no
# number.
UNREAD = ("SOLVER.TRAINER", "SOLVER.DOT.DELTA")

# What the table takes from result.json; a file without one of these is torn or of another version.
NUMBERS = (
    "wall_seconds",
    "images_per_second",
    "peak_memory_mib",
    "deployed_parameters",
    "extra_parameters",
    "train_images",
)


@dataclass(frozen=True)
class Run:
    """One run folder.

    Args:
        identity: what decides the result, flat: config keys, and data and teacher by their hashes.
        result: result.json, or None while the run is unfinished; another host's has None for what
            that does not record.
        epochs_done: complete epochs of all phases.
        curve: (epoch, top-1 in percent on the evaluated images) for each scored one; phases are
            counted through.
    """

    path: Path
    identity: dict[str, Any]
    result: dict[str, Any] | None
    epochs_done: int
    curve: tuple[tuple[int, float], ...]

    @property
    def method(self) -> str:
        return self.identity["DISTILLER.TYPE"]

    @property
    def student(self) -> str:
        return self.identity["DISTILLER.STUDENT"]

    @property
    def teacher(self) -> str | None:
        """The teacher's model name; None for a method without one."""
        return self.identity.get("DISTILLER.TEACHER")

    @property
    def teacher_hash(self) -> str | None:
        return self.identity["teacher"]

    @property
    def host(self) -> str:
        """Whose trainer made the run."""
        return self.identity.get("host", HOME)

    @property
    def seed(self) -> int:
        return self.identity["SOLVER.SEED"]

    @property
    def epochs(self) -> int:
        return self.identity["SOLVER.EPOCHS"]

    @property
    def progress(self) -> str:
        """How far the run is; a method's pre-training counts, so there may be more epochs than
        SOLVER.EPOCHS.
        """
        return f"{self.epochs_done} epochs done, SOLVER.EPOCHS {self.epochs}"

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The method's own settings."""
        return {
            key: value for key, value in self.identity.items() if key.startswith(f"{self.method}.")
        }

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """Everything that must agree before two methods may be compared: schedule, optimiser, data,
        evaluated images.
        """
        own = ("DISTILLER.", f"{self.method}.")
        left_out = ("SOLVER.SEED", "teacher", *UNREAD)
        kept = {
            key: value
            for key, value in self.identity.items()
            if not key.startswith(own) and key not in left_out
        }
        kept["host"] = self.host
        if "SOLVER.SCHEDULE_EPOCHS" in kept:  # 0 stands for EPOCHS, which is the same schedule
            kept["SOLVER.SCHEDULE_EPOCHS"] = kept["SOLVER.SCHEDULE_EPOCHS"] or self.epochs
        return kept

    @property
    def evaluates(self) -> str:
        return "val" if self.identity["DATASET.VAL_FRACTION"] > 0 else "test"


@dataclass(frozen=True)
class Rejected:
    """A folder that looks like a run but cannot be trusted."""

    path: Path
    reason: str


class _Torn(ValueError):
    """Why a run folder is rejected."""


def read_runs(folders: Iterable[str | Path]) -> tuple[list[Run], list[Rejected]]:
    """Reads every run under `folders`, each once, ordered by path.

    Raises:
        UserError: a folder does not exist, is a file, or holds nothing that looks like a run.
    """
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            fault = "is a file, not a folder" if folder.exists() else "does not exist"
            raise UserError(
                f"{folder} {fault}; give folders that hold runs, such as the LOG.PREFIX of "
                f"tools/train.py"
            )
        here = _find(folder)
        if not here:
            names = ", ".join((*MARKERS, WORKLOG))
            raise UserError(
                f"{folder} holds no run: no folder under it has any of {names}; give a LOG.PREFIX"
            )
        found.update((path.resolve(), path) for path in here)
    runs, rejected = [], []
    for path in sorted(found.values()):
        try:
            runs.append(_read(path))
        except _Torn as error:
            rejected.append(Rejected(path, str(error)))
    return runs, rejected


def _find(folder: Path) -> list[Path]:
    found = []
    for parent, children, files in os.walk(folder):
        if not {*MARKERS, WORKLOG}.isdisjoint(files):
            found.append(Path(parent))
            children.clear()  # what lies in a run is its own
    return found


def _read(path: Path) -> Run:
    if (path / WORKLOG).exists():
        raise _Torn(
            "made by mdistiller's trainer, which records neither method nor pair nor seed; name "
            "them with "
            f"--upstream {path}:METHOD:TEACHER/STUDENT:SEED"
        )
    identity, result = _read_json(path / "identity.json"), _read_json(path / "result.json")
    if result is not None:
        _check_result(result)
        if identity is not None and identity != result["identity"]:
            keys = sorted(
                k
                for k in identity.keys() | result["identity"].keys()
                if identity.get(k) != result["identity"].get(k)
            )
            raise _Torn(f"identity.json and result.json disagree on {', '.join(keys)}")
        identity = result["identity"]
    if identity is None:
        raise _Torn("has neither identity.json nor result.json: not begun by this package, or torn")
    _check_identity(identity)
    rows = _read_metrics(path / "metrics.csv")
    if result is not None:
        _check_complete(rows, result)
    curve = tuple(
        (number, row.top1) for number, row in enumerate(rows, start=1) if row.top1 is not None
    )
    return Run(path, identity, result, len(rows), curve)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _Torn(f"{path.name} cannot be read: {error.strerror}") from error
    except ValueError as error:  # bad json and bad utf-8 alike
        raise _Torn(f"{path.name} is no valid json ({error})") from error
    if not isinstance(value, dict):
        raise _Torn(f"{path.name} holds {type(value).__name__}, not an object")
    return value


def _check_identity(identity: dict[str, Any]) -> None:
    needed = {
        "DISTILLER.TYPE": str,
        "DISTILLER.STUDENT": str,
        "SOLVER.SEED": int,
        "SOLVER.EPOCHS": int,
        "DATASET.VAL_FRACTION": float,
        "data": str,
    }
    wrong = [key for key, kind in needed.items() if not isinstance(identity.get(key), kind)]
    if wrong or "teacher" not in identity:
        raise _Torn(f"identity lacks or has no valid {', '.join(wrong or ['teacher'])}")


def _check_result(result: dict[str, Any]) -> None:
    if not isinstance(result.get("identity"), dict):
        raise _Torn("result.json has no identity")
    for name in ("last", "best"):
        scores = result.get(name)
        for key in ("top1", "top5"):
            value = scores.get(key) if isinstance(scores, dict) else None
            if not isinstance(value, (int, float)) or not 0 <= value <= 100:  # NaN fails this, too
                raise _Torn(f"{name}.{key} in result.json is {value!r}; it must be a percentage")
    for key in NUMBERS:
        value = result.get(key)
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise _Torn(f"{key} in result.json is {value!r}; it must be a number")
    if not isinstance(result.get("environment"), dict):
        raise _Torn("result.json has no environment")


@dataclass(frozen=True)
class _Row:
    """What is needed of one epoch in metrics.csv; top1 is None in a phase that scores nothing."""

    phase: str
    epoch: int
    top1: float | None
    seconds: float


def _read_metrics(path: Path) -> list[_Row]:
    try:
        with open(path, newline="") as file:
            head, *lines = csv.reader(file)
        places = [
            head.index(name)
            for name in ("phase", "epoch", "test_top1", "train_seconds", "test_seconds")
        ]
        rows = [_metrics_row(*(line[place] for place in places)) for line in lines]
    except FileNotFoundError:
        return []  # killed in the first epoch; a result without metrics fails its own check
    except OSError as error:
        raise _Torn(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, csv.Error) as error:
        raise _Torn(f"{path.name} is torn or foreign ({error})") from error
    before = None
    for row in rows:
        if row.epoch != (before.epoch + 1 if before and before.phase == row.phase else 1):
            raise _Torn(f"{path.name} skips to epoch {row.epoch} of phase {row.phase}")
        before = row
    return rows


def _metrics_row(phase: str, epoch: str, top1: str, train_seconds: str, test_seconds: str) -> _Row:
    seconds = float(train_seconds) + (float(test_seconds) if test_seconds else 0.0)
    return _Row(phase, int(epoch), float(top1) if top1 else None, seconds)


def _check_complete(rows: list[_Row], result: dict[str, Any]) -> None:
    """A metrics.csv that lost rows cannot add up to the seconds in result.json."""
    if not rows:
        raise _Torn("has result.json but no metrics.csv, or an empty one")
    if rows[-1].top1 != result["last"]["top1"]:
        raise _Torn(
            f"last top-1 is {rows[-1].top1} in metrics.csv but {result['last']['top1']} in "
            f"result.json"
        )
    seconds = sum(row.seconds for row in rows)
    if not math.isclose(seconds, result["wall_seconds"], rel_tol=1e-6):
        raise _Torn(
            f"the {len(rows)} epochs in metrics.csv took {seconds:.1f} s, result.json says "
            f"{result['wall_seconds']:.1f} s: "
            "rows are missing or foreign"
        )

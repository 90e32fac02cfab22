"""Run folders, found and read. A torn or foreign one is kept with the reason, never dropped; torch
is not needed here.
"""

import csv
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_json
from sdkd_plugin.runs.names import SCHEMA_1_COLUMNS, todays
from sdkd_plugin.runs.record import FILE, HEADLINE, Result

# a folder with any of these claims to be a run
MARKERS = ("identity.json", FILE, "metrics.csv")
WORKLOG = "worklog.txt"  # the log of mdistiller's trainer, which names neither method nor seed
VANILLA = "NONE"
HOME = "sdkd_plugin"  # the host that trained a run, unless its identity names another

# Identity keys that this package's own loop never reads (mdistiller's does), so that they change no
# number.
UNREAD = ("SOLVER.TRAINER", "SOLVER.DOT.DELTA")


@dataclass(frozen=True)
class Run:
    """One run folder.

    Args:
        identity: what decides the result, flat: config keys, and data and teacher by their hashes.
        result: its record, or None while the run is unfinished; another host's has None for what
            that does not record.
        epochs_done: complete epochs of all phases.
        curves: by metric, (epoch, value on the evaluated images) for each scored epoch; phases are
            counted through.
    """

    path: Path
    identity: dict[str, Any]
    result: Result | None
    epochs_done: int
    curves: Mapping[str, tuple[tuple[int, float], ...]]

    @property
    def record(self) -> Result:
        """The record of a run that is known to be finished."""
        assert self.result is not None, self.path
        return self.result

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """The headline metric's."""
        return self.curves.get(HEADLINE, ())

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
                "tools/train.py"
            )
        here = _find(folder)
        if not here:
            names = ", ".join((*MARKERS, WORKLOG))
            raise UserError(
                f"{folder} holds no run: no folder under it has any of {names}; give a LOG.PREFIX"
            )
        found.update((path.resolve(), path) for path in here)

    runs = []
    rejected = []
    for path in sorted(found.values()):
        try:
            runs.append(_read(path))
        except UserError as error:
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
        raise UserError(
            "made by mdistiller's trainer, which records neither method nor pair nor seed; name "
            f"them with --upstream {path}:METHOD:TEACHER/STUDENT:SEED"
        )

    identity = _read_identity(path)
    result = Result.read(path)
    if result is not None:
        _check_same(identity, result.identity)
        identity = dict(result.identity)
    if identity is None:
        raise UserError(
            "has neither identity.json nor result.json: not begun by this package, or torn"
        )
    _check_identity(identity)

    rows = _read_metrics(path / "metrics.csv")
    if result is not None:
        _check_complete(rows, result)
    return Run(path, identity, result, len(rows), _curves(rows))


def _read_identity(path: Path) -> dict[str, Any] | None:
    try:
        identity = read_json(path / "identity.json")
    except OSError as error:
        raise UserError(f"identity.json cannot be read: {error.strerror}") from error
    if identity is not None and not isinstance(identity, dict):
        raise UserError(f"identity.json holds {type(identity).__name__}, not an object")
    return None if identity is None else todays(identity)


def _check_same(identity: dict[str, Any] | None, recorded: Mapping[str, Any]) -> None:
    if identity is not None and identity != recorded:
        either = identity.keys() | recorded.keys()
        keys = sorted(key for key in either if identity.get(key) != recorded.get(key))
        raise UserError(f"identity.json and {FILE} disagree on {', '.join(keys)}")


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
        raise UserError(f"identity lacks or has no valid {', '.join(wrong or ['teacher'])}")


@dataclass(frozen=True)
class _Row:
    """What is needed of one epoch in metrics.csv; `scores` is empty in a phase that has none."""

    phase: str
    epoch: int
    seconds: float
    scores: dict[str, float]


def _read_metrics(path: Path) -> list[_Row]:
    try:
        with open(path, newline="") as file:
            head, *lines = csv.reader(file)
        rows = _metrics_rows(head, lines)
    except FileNotFoundError:
        return []  # killed in the first epoch; a result without metrics fails its own check
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, csv.Error) as error:
        raise UserError(f"{path.name} is torn or foreign ({error})") from error

    before = None
    for row in rows:
        if row.epoch != (before.epoch + 1 if before and before.phase == row.phase else 1):
            raise UserError(f"{path.name} skips to epoch {row.epoch} of phase {row.phase}")
        before = row
    return rows


def _metrics_rows(head: list[str], lines: list[list[str]]) -> list[_Row]:
    head = [SCHEMA_1_COLUMNS.get(name, name) for name in head]
    phase = head.index("phase")
    epoch = head.index("epoch")
    seconds = [head.index("train_seconds"), head.index("test_seconds")]
    head.index(f"test_{HEADLINE}")
    scores = {
        name.removeprefix("test_"): place
        for place, name in enumerate(head)
        if name.startswith("test_") and place not in seconds
    }

    return [
        _Row(
            line[phase],
            int(line[epoch]),
            sum(float(line[place]) for place in seconds if line[place]),
            {name: float(line[place]) for name, place in scores.items() if line[place]},
        )
        for line in lines
    ]


def _curves(rows: list[_Row]) -> dict[str, tuple[tuple[int, float], ...]]:
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        for name, value in row.scores.items():
            curves[name].append((number, value))
    return {name: tuple(points) for name, points in curves.items()}


def _check_complete(rows: list[_Row], result: Result) -> None:
    """A metrics.csv that lost rows cannot add up to the seconds in result.json."""
    if not rows:
        raise UserError(f"has {FILE} but no metrics.csv, or an empty one")
    for name, value in result.last.items():
        logged = rows[-1].scores.get(name)
        if logged != value:
            label = result.metrics[name].label
            raise UserError(f"last {label} is {logged} in metrics.csv but {value} in {FILE}")
    seconds = sum(row.seconds for row in rows)
    recorded = result.wall_seconds
    assert recorded is not None  # a record of this package has been checked for it
    if not math.isclose(seconds, recorded, rel_tol=1e-6):
        raise UserError(
            f"the {len(rows)} epochs in metrics.csv took {seconds:.1f} s, {FILE} says "
            f"{recorded:.1f} s: rows are missing or foreign"
        )

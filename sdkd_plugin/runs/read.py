"""Run folders, found and read. A torn or foreign one is kept with the reason, never dropped; torch
is not needed here.
"""

import gc
import math
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sdkd_plugin.defaults import DELTA, DOT, OPTIMIZER, TRAINER
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_object
from sdkd_plugin.runs.find import MARKERS, WORKLOG, Place, Rejected, find_runs
from sdkd_plugin.runs.metrics import Curves, Metrics, Points, read_metrics
from sdkd_plugin.runs.names import todays
from sdkd_plugin.runs.record import FILE, HEADLINE, Result
from sdkd_plugin.runs.valid import check_identity

VANILLA = "NONE"
HOME = "sdkd_plugin"  # the host that trained a run, unless its identity names another

PART = 500  # runs that a process reads before it hands them over


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
    identity: Mapping[str, Any]
    result: Result | None
    epochs_done: int
    curves: Mapping[str, Points]

    @property
    def record(self) -> Result:
        """The record of a run that is known to be finished."""
        assert self.result is not None, self.path
        return self.result

    @property
    def curve(self) -> Points:
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
        """The method's own settings, and DOT's where it trains by it."""
        own = {
            key: value for key, value in self.identity.items() if key.startswith(f"{self.method}.")
        }
        return own | {
            key: self.identity[key]
            for key in (OPTIMIZER, DELTA)
            if self.dot and key in self.identity
        }

    @property
    def dot(self) -> bool:
        """Whether DOT moves its weights: a part of the method, as it is published."""
        return self.identity.get(OPTIMIZER) == DOT

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """Everything that must agree before two methods may be compared: schedule, optimiser, data,
        evaluated images.
        """
        own = ("DISTILLER.", f"{self.method}.")
        left_out = ("SOLVER.SEED", "teacher", TRAINER, OPTIMIZER, DELTA)
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


def read_runs(
    folders: Iterable[str | Path], curves: bool = False, processes: int = 1
) -> tuple[list[Run], list[Rejected]]:
    """Reads every run under `folders`, each once, ordered by path.

    Args:
        curves: whether the scores of every epoch are wanted, which are then checked as well.
        processes: that read, where there are so many runs that it pays; above 1 for a command
            line, since a script without `if __name__ == "__main__"` starts again in each.
    Raises:
        UserError: a folder does not exist, is a file, or holds nothing that looks like a run.
    """
    found: dict[Place, Path] = {}
    rejected = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            fault = "is a file, not a folder" if folder.exists() else "does not exist"
            raise UserError(
                f"{folder} {fault}; give folders that hold runs, such as the LOG.PREFIX of "
                "tools/train.py"
            )
        here, unread = find_runs(folder)
        rejected += unread
        if not here and not unread:
            names = ", ".join((*MARKERS, WORKLOG))
            raise UserError(
                f"{folder} holds no run: no folder under it has any of {names}; give a LOG.PREFIX"
            )
        found.update({place: path for place, path in here.items() if place not in found})

    read = _read_all(sorted(found.values()), curves, processes)
    runs = [each for each in read if isinstance(each, Run)]
    rejected += [each for each in read if isinstance(each, Rejected)]
    return runs, sorted(rejected, key=lambda bad: bad.path)


def _read_all(paths: Sequence[Path], curves: bool, processes: int) -> list[Run | Rejected]:
    parts = [paths[start : start + PART] for start in range(0, len(paths), PART)]
    read = partial(_read_part, curves=curves)
    processes = min(processes, len(parts) // 2)  # fewer than two parts each do not pay
    with _without_collector():
        if processes < 2:
            return [each for part in parts for each in read(part)]
        # spawn: a fork of a process with threads can hang
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context) as pool:
            return [each for part in pool.map(read, parts) for each in part]


def _read_part(paths: Iterable[Path], curves: bool) -> list[Run | Rejected]:
    read: list[Run | Rejected] = []
    with _without_collector():
        for path in paths:
            try:
                read.append(_read(path, curves))
            except UserError as error:
                read.append(Rejected(path, str(error)))
    return read


@contextmanager
def _without_collector() -> Iterator[None]:
    """What is read holds no cycles, and looking for some among ten thousand runs' values is a sixth
    of the time.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _read(path: Path, curves: bool) -> Run:
    if (path / WORKLOG).exists():
        raise UserError(
            "made by mdistiller's trainer, which records neither method nor pair nor seed; name "
            f"them with --upstream {path}:METHOD:TEACHER/STUDENT:SEED"
        )

    identity: Mapping[str, Any] | None = _read_identity(path)
    result = Result.read(path)
    if result is not None:
        check_identity(result.identity)
        _check_same(identity, result.identity)
        identity = result.identity
    elif identity is not None:
        check_identity(identity)
    else:
        raise UserError(
            "has neither identity.json nor result.json: not begun by this package, or torn"
        )

    metrics = read_metrics(path, curves)
    if result is not None:
        _check_complete(metrics, result)
    return Run(path, identity, result, metrics.epochs, Curves(path))


def _read_identity(path: Path) -> dict[str, Any] | None:
    try:
        identity = read_object(path / "identity.json")
    except OSError as error:
        raise UserError(f"identity.json cannot be read: {error.strerror}") from error
    return None if identity is None else todays(identity)


def _check_same(identity: Mapping[str, Any] | None, recorded: Mapping[str, Any]) -> None:
    if identity is not None and identity != recorded:
        either = identity.keys() | recorded.keys()
        keys = sorted(key for key in either if identity.get(key) != recorded.get(key))
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        raise UserError(f"identity.json and {FILE} disagree on {', '.join(keys[:5])}{more}")


def _check_complete(metrics: Metrics, result: Result) -> None:
    """A metrics.csv that lost rows cannot add up to the seconds in result.json."""
    if not metrics.epochs:
        raise UserError(f"has {FILE} but no metrics.csv, or an empty one")
    for name in result.metrics:
        value, logged = result.last[name], metrics.last.get(name)
        if logged != value:
            label = result.metrics[name].label
            raise UserError(f"last {label} is {logged} in metrics.csv but {value} in {FILE}")
    recorded = result.wall_seconds
    assert recorded is not None  # a record of this package has been checked for it
    if not math.isclose(metrics.seconds, recorded, rel_tol=1e-6):
        raise UserError(
            f"the {metrics.epochs} epochs in metrics.csv took {metrics.seconds:.1f} s, {FILE} says "
            f"{recorded:.1f} s: rows are missing or foreign"
        )

"""`watch`: what the runs below a folder do, live in the terminal; torch is not needed here."""

import csv
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sdkd_plugin.errors import UserError
from sdkd_plugin.printable import printable
from sdkd_plugin.runs.lock import is_locked
from sdkd_plugin.runs.metrics import FILE, SECONDS
from sdkd_plugin.runs.read import Run, read_runs
from sdkd_plugin.runs.record import HEADLINE

LAST_PHASE = "train"  # the only one whose length a run's identity says
COLUMNS = ("run", "state", "epoch", "top-1", "images/s", "time left")


@dataclass(frozen=True)
class Row:
    """A run that is not finished.

    Args:
        name: its folder, below the watched one.
        state: training | stopped | cannot be read, with the reason.
        epoch: complete epochs of the running phase, and of how many where that is known.
        top1: of the last scored epoch, in percent; None before it.
        images_per_second: of the last epoch; in a group of its own steps alone.
        seconds_left: until its end at the last epoch's pace; None where nobody knows.
    """

    name: str
    state: str
    epoch: str = ""
    top1: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """As COLUMNS."""
        return (
            escape(printable(self.name)),
            escape(printable(self.state)),
            self.epoch,
            "" if self.top1 is None else f"{self.top1:.2f}",
            "" if self.images_per_second is None else f"{self.images_per_second:.0f}",
            "" if self.seconds_left is None else spelled(self.seconds_left),
        )


def spelled(seconds: float) -> str:
    """A time as a person says it."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def look(folder: Path) -> tuple[int, list[Row]]:
    """How many runs below a folder are finished, and what the others do: those that train first.

    Raises:
        UserError: the folder does not exist, is a file, or holds nothing that looks like a run.
    """
    runs, rejected = read_runs([folder])
    rows = [_row(run, folder) for run in runs if run.result is None]
    rows += [Row(_name(bad.path, folder), f"cannot be read: {bad.reason}") for bad in rejected]
    rows.sort(key=lambda row: (row.state != "training", row.name))
    return sum(run.result is not None for run in runs), rows


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _row(run: Run, folder: Path) -> Row:
    state = "training" if is_locked(run.path) else "stopped"
    name = _name(run.path, folder)
    last = _last_epoch(run.path)
    if last is None:
        return Row(name, state, f"0 of {run.epochs}")

    phase, epoch = last["phase"], int(last["epoch"])
    known = phase == LAST_PHASE
    left = None
    if known and state == "training":
        # in a group the runs take turns: an epoch lasts for all of theirs
        seconds = sum(_number(last, name) or 0.0 for name in SECONDS)
        left = (run.epochs - epoch) * seconds * (_number(last, "group_size") or 1)
    return Row(
        name,
        state,
        f"{epoch} of {run.epochs}" if known else f"{epoch} of phase {phase}",
        _number(last, f"test_{HEADLINE}"),
        _number(last, "images_per_second"),
        left,
    )


def _number(row: Mapping[str, str], name: str) -> float | None:
    """A value of a row; None where an earlier version wrote none, or it is no number."""
    try:
        return float(row[name])
    except (KeyError, ValueError):
        return None


def _last_epoch(path: Path) -> Mapping[str, str] | None:
    try:
        with open(path / FILE, newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return None
    return rows[-1] if rows else None


def shown(finished: int, rows: Iterable[Row]) -> Group:
    """A table of the unfinished runs, and a line that counts all."""
    rows = list(rows)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row.cells)
    training = [row for row in rows if row.state == "training"]
    stopped = sum(row.state == "stopped" for row in rows)
    line = f"{finished} finished, {len(training)} training, {stopped} stopped"
    broken = len(rows) - len(training) - stopped
    if broken:
        line += f", {broken} cannot be read"
    known = [row.seconds_left for row in training if row.seconds_left is not None]
    if known:
        line += f"; the last of those that train is done in about {spelled(max(known))}"
    return Group(*([table] if rows else []), f"{time.strftime('%H:%M:%S')}  {line}")


def watch(folder: Path, every: float = 5.0, once: bool = False) -> None:
    """Shows the runs below a folder until Ctrl-C, or until none trains any more.

    Args:
        every: seconds between looks, above 0.
        once: print what there is now, and stop; so it is done where no terminal can be redrawn.
    Raises:
        UserError: as `look`, or `every` is not above 0.
    """
    if not every > 0:
        raise UserError(f"--every is {every:g}; allowed: above 0")
    console = Console()
    finished, rows = look(folder)
    if once or not sys.stdout.isatty():
        console.print(shown(finished, rows))
        return

    with Live(shown(finished, rows), console=console, auto_refresh=False) as live:
        while any(row.state == "training" for row in rows):
            time.sleep(every)
            finished, rows = look(folder)
            live.update(shown(finished, rows), refresh=True)

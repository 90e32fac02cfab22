"""The published numbers, all in published.csv with their source: the only numbers in a table that
are typed by hand.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from sdkd_plugin.errors import unknown
from sdkd_plugin.runs.names import LATER
from sdkd_plugin.table.grids import EMPTY, Cell, Grid, mark_notes

TEACHER = "teacher"
STUDENT = "student"
GAIN = "Gain"
SHOWN_GAIN_OF = "SDKD"

# Dataset.fingerprint of the whole CIFAR-100 at 32x32; what was measured on other images gets no
# published number beside it.
CIFAR100 = "123fff178151842b"

# RepDistiller's protocol, which published.csv's numbers follow unless they say otherwise.
SCHEDULE: dict[str, Any] = {
    "SOLVER.EPOCHS": 240,
    "SOLVER.SCHEDULE_EPOCHS": 240,
    "SOLVER.BATCH_SIZE": 64,
    "SOLVER.LR": 0.05,
    "SOLVER.LR_DECAY_STAGES": [150, 180, 210],
    "SOLVER.LR_DECAY_RATE": 0.1,
    "SOLVER.WEIGHT_DECAY": 0.0005,
    "SOLVER.MOMENTUM": 0.9,
    "DATASET.AUGMENT": "crop_flip",
    "DATASET.TRANSFORM": "cifar",
}
SLOW_STUDENTS = ("MobileNetV2", "ShuffleV1", "ShuffleV2")  # their LR is SLOW_LR
SLOW_LR = 0.01


@dataclass(frozen=True)
class Published:
    """One number somebody printed.

    Args:
        table: which of the tables in published.csv.
        value: top-1 accuracy in percent, with the decimals it was printed with.
        statistic: last | best (epoch on the test images) | unknown.
        n: runs it is the mean of; None if not stated.
        source: who printed it, and after a semicolon what else is known of it.
        schedule: "" for SCHEDULE, as far as it is known; else what is known of it.
    """

    table: str
    method: str
    teacher: str
    student: str
    value: str
    statistic: str
    n: int | None
    source: str
    schedule: str = ""

    @property
    def kind(self) -> tuple[str, ...]:
        """Numbers of one kind may be compared: of the last epoch, of the best, or of an unknown one
        in one source, which printed them side by side; and of one schedule.
        """
        source = self.source.split(";")[0] if self.statistic == "unknown" else ""
        return self.statistic, source, self.schedule


@cache
def load_published() -> list[Published]:
    """Every row of published.csv, in its order."""
    text = files("sdkd_plugin.table").joinpath("published.csv").read_text()
    return [
        Published(**{**row, "n": int(row["n"]) if row["n"] else None})  # type: ignore[arg-type]
        for row in csv.DictReader(text.splitlines())
    ]


def published_table(name: str, option: str = "--published") -> list[Published]:
    """The rows of one published table.

    Args:
        option: where the name was given, for the message.
    Raises:
        UserError: no such table; the known ones are named.
    """
    rows = load_published()
    chosen = [row for row in rows if row.table == name]
    if not chosen:
        raise unknown("published table", name, {row.table for row in rows}, option)
    return chosen


def find_published(
    rows: Iterable[Published], method: str, teacher: str, student: str
) -> Published | None:
    """The first of `rows` for this cell; method names are compared without case, since configs
    write FITNET.
    """
    for row in rows:
        if (row.method.lower(), row.teacher, row.student) == (method.lower(), teacher, student):
            return row
    return None


def method_order(rows: Iterable[Published]) -> list[str]:
    """Method names as papers write them, in the order tables print them: teacher and student first,
    SDKD last.
    """
    names = list(dict.fromkeys(row.method for row in rows))
    return [name for name in names if name != SHOWN_GAIN_OF] + [SHOWN_GAIN_OF]


def is_cifar100(protocol: dict[str, Any]) -> bool:
    """Whether a run trained on the whole CIFAR-100 at 32x32 and was scored on its test images."""
    whole = {"DATASET.TYPE": "cifar100", "DATASET.SUBSET": 1.0, "DATASET.VAL_FRACTION": 0.0}
    torchvisions = all(protocol.get(key) == value for key, value in whole.items())
    return protocol.get("data") == CIFAR100 or (
        torchvisions and protocol.get("DATASET.IMAGE_SIZE") in (0, 32)
    )


def departures(protocol: dict[str, Any], student: str) -> list[str]:
    """How a run's schedule differs from the published one, as `KEY value (published: value)`."""
    said = {**LATER, **protocol}
    expected = {
        **SCHEDULE,
        "SOLVER.LR": SLOW_LR if student in SLOW_STUDENTS else SCHEDULE["SOLVER.LR"],
    }
    return [
        f"{key} {said.get(key, 'not recorded')} (published: {value})"
        for key, value in expected.items()
        if said.get(key) != value
    ]


def published_grid(rows: Sequence[Published]) -> Grid:
    """A published table as printed; where SDKD and the student stand in it, with their computed
    difference as last row.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    pairs = list(dict.fromkeys((row.teacher, row.student) for row in rows))
    found = {(row.method, row.teacher, row.student): row for row in rows}

    grid = [[Cell(method)] for method in methods]
    for pair in pairs:
        printed = [found.get((method, *pair)) for method in methods]
        contest = [row for row in printed if row and row.method != TEACHER]
        best = max(float(row.value) for row in contest) if _one_kind(contest) else None
        for line, row in zip(grid, printed, strict=True):
            line.append(EMPTY if row is None else _printed(row, best))

    if SHOWN_GAIN_OF in methods and STUDENT in methods:
        gains = [[found.get((name, *pair)) for name in (SHOWN_GAIN_OF, STUDENT)] for pair in pairs]
        grid.append([Cell(GAIN), *(_gain(ours, theirs) for ours, theirs in gains)])

    head = ["method", *(f"{teacher}/{student}" for teacher, student in pairs)]
    title = "Published top-1 accuracy (%) on CIFAR-100"
    notes = mark_notes(grid) + _refusals(rows) + _source_notes(rows, methods)
    return Grid("published", title, head, grid, notes)


def _one_kind(rows: Sequence[Published]) -> bool:
    return len({row.kind for row in rows}) == 1


def _gain(ours: Published | None, theirs: Published | None) -> Cell:
    if ours is None or theirs is None or not _one_kind([ours, theirs]):
        return EMPTY
    gain = float(ours.value) - float(theirs.value)
    return Cell(f"{gain:.2f}", gain)


def _printed(row: Published, best: float | None) -> Cell:
    value = float(row.value)
    marks = "◊" if row.statistic == "best" else ""
    return Cell(row.value, value, best=row.method != TEACHER and value == best, marks=marks)


def _refusals(rows: Sequence[Published]) -> list[str]:
    """Which columns have no best number, and why."""
    contests: dict[tuple[str, str], list[Published]] = {}
    for row in rows:
        if row.method != TEACHER:
            contests.setdefault((row.teacher, row.student), []).append(row)
    refused = [pair for pair, contest in contests.items() if not _one_kind(contest)]
    if not refused:
        return []
    names = ", ".join(f"{teacher}/{student}" for teacher, student in refused)
    return [
        f"no best is marked in {names}: numbers of the last epoch, of the best and of an unknown "
        "one do not compare, nor do those of unknown epochs from different sources or of "
        "different schedules"
    ]


def _source_notes(rows: Sequence[Published], methods: list[str]) -> list[str]:
    sources: dict[str, list[str]] = {}
    for row in rows:
        schedule = f"; {row.schedule}" if row.schedule else ""
        told = f"{row.source}; epoch: {row.statistic}{schedule}"
        sources.setdefault(told, []).append(row.method)

    notes = []
    for source, of in sources.items():
        names = list(dict.fromkeys(of))
        notes.append(f"{'all' if names == methods else ', '.join(names)}: {source}")
    return notes

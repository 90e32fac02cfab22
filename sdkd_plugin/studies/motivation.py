"""The tables of the motivation study: the aligned teachers, and what their students learned."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdkd_plugin.runs.read import VANILLA, read_runs
from sdkd_plugin.table.cells import Comparison, TableCell, compare_runs
from sdkd_plugin.table.grids import EMPTY, Cell, Grid, mark_notes
from sdkd_plugin.table.published import (
    STUDENT,
    TEACHER,
    Published,
    departures,
    find_published,
    is_cifar100,
    published_table,
)

if TYPE_CHECKING:
    from sdkd_plugin.studies.align import Aligned

TEMPERATURE = "KD.TEMPERATURE"
TABLE = "motivation"  # of the published ones
NO_ROOT = "no root"
_TAU = re.compile(r"softmax temperature ([\d.]+)")
_LOSS = re.compile(r"test cross-entropy (?:at it )?([\d.]+)")

HEAD = ["student", "top-1", "CE", "teacher", "top-1 of teacher", "tau", "CE-L(tau)", "KD top-1"]
PUBLISHED_HEAD = ["student", "CE", "teacher", "tau", "CE-L(tau)", "KD"]


def teachers_grid(teachers: Sequence["Aligned"]) -> Grid:
    """Each teacher's accuracy, cross entropy and temperature; the first is the reference."""
    rows = []
    for teacher in teachers:
        others = [root for root in teacher.roots if root.branch != teacher.branch]
        rows.append(
            [
                Cell(teacher.model),
                _number(teacher.top1, 2),
                _number(teacher.loss, 4),
                Cell(NO_ROOT) if teacher.tau is None else Cell(f"{teacher.tau:g}", teacher.tau),
                _number(teacher.loss_at_tau, 4),
                Cell(teacher.branch),
                Cell(", ".join(f"{root.tau:.4g} ({root.branch})" for root in others)),
            ]
        )
    head = ["teacher", "top-1", "CE-L(1)", "tau", "CE-L(tau)", "branch", "other root"]
    first = teachers[0]
    notes = [
        f"tau: where the teacher's cross entropy on the {first.images} images is "
        f"{first.model}'s at 1",
        "sharper, softer: tau is below, above the one of the teacher's smallest cross entropy",
    ]
    lowest = [teacher.model for teacher in teachers if teacher.tau is None]
    if lowest:
        notes.append(f"no root: no temperature gives {', '.join(lowest)} that cross entropy")
    title = f"Teachers at equal cross entropy on the {first.images} images"
    return Grid("teachers", title, head, rows, notes)


@dataclass(frozen=True)
class _Found:
    """What the runs have of one student and one teacher; None where there is none."""

    alone: TableCell | None
    taught: TableCell | None

    @property
    def published(self) -> bool:
        """Whether published numbers may stand beside: the whole CIFAR-100."""
        cells = [cell for cell in (self.taught, self.alone) if cell is not None]
        return any(is_cifar100(cell.column.protocol) for cell in cells)


def motivation_grid(
    teachers: Sequence["Aligned"], students: Sequence[str], folders: Sequence[str | Path]
) -> Grid:
    """The poster's first table: each student alone, and taught by each teacher at its temperature.

    Raises:
        UserError: the folders hold no run, or two settings of one cell.
    """
    runs, rejected = read_runs(folders)
    runs = [run for run in runs if run.method in (VANILLA, "KD")]
    split = [TEMPERATURE] if any(TEMPERATURE in run.recipe for run in runs) else []
    tables = {name: compare_runs(runs, rejected, split, name) for name in ("top1", "loss")}
    rows = []
    notes: list[str] = []
    beside = False
    for student in students:
        for teacher in teachers:
            found = _find(tables["top1"], teacher, student)
            losses = _find(tables["loss"], teacher, student)
            own = [
                Cell(student),
                _mean(found.alone, 2),
                _mean(losses.alone, 4),
                Cell(teacher.model),
                _number(teacher.top1, 2),
                Cell(NO_ROOT) if teacher.tau is None else Cell(f"{teacher.tau:g}", teacher.tau),
                _number(teacher.loss_at_tau, 4),
                _mean(found.taught, 2),
            ]
            printed = _published(teacher.model, student) if found.published else []
            beside |= any(cell is not EMPTY for cell in printed)
            rows.append(own + (printed or [EMPTY] * len(PUBLISHED_HEAD)))
            notes += _departures(found, teacher.model, student) if printed else []

    head = [*HEAD, *(f"published {name}" for name in PUBLISHED_HEAD)]
    if not beside:
        head = HEAD
        rows = [row[: len(HEAD)] for row in rows]
    marks = mark_notes(rows)
    explained = ["top-1 in %, CE in nats; last epoch, mean ± sample standard deviation (n seeds)"]
    explained += _sources() if beside else []
    title = "The same students under teachers of equal cross entropy"
    return Grid("motivation", title, head, rows, [*marks, *explained, *dict.fromkeys(notes)])


def poster_grid() -> Grid:
    """The poster's first table as printed: whole CIFAR-100, both of its teachers and students."""
    rows = []
    for row in published_table(TABLE):
        if row.method != "KD":  # one of each student and teacher
            continue
        alone, loss, own, tau, own_loss, taught = _published(row.teacher, row.student)
        rows.append([Cell(row.student), alone, loss, Cell(row.teacher), own, tau, own_loss, taught])
    notes = ["as printed: CIFAR-100 at 32x32, all its training images; no spread is given"]
    return Grid("poster", "The poster's table", HEAD, rows, [*notes, *_sources()])


def _find(table: Comparison, teacher: "Aligned", student: str) -> _Found:
    """The cells of one student and teacher; the student alone by the protocol of the taught one."""
    columns = [
        (index, column) for index, column in enumerate(table.columns) if column.student == student
    ]
    taught_row = f"KD (TEMPERATURE={teacher.tau})"
    for index, column in columns:
        if column.teacher_hash == teacher.digest and (taught_row, index) in table.cells:
            return _Found(table.cells.get((STUDENT, index)), table.cells[taught_row, index])
    # of no such run, the student's own score under the protocol of the others
    alone = [(index, cell) for index, _ in columns if (cell := table.cells.get((STUDENT, index)))]
    beside = [cell for index, cell in alone if len(list(filter(None, table.in_column(index)))) > 1]
    cells = beside[:1] or [cell for _, cell in alone if len(alone) == 1]
    return _Found(cells[0] if cells else None, None)


def _mean(cell: TableCell | None, decimals: int) -> Cell:
    """Mean ± sd (n) of a cell with finished runs."""
    if cell is None or not cell.finished:
        return EMPTY
    summary = cell.summary("last")
    marks = "‡" if cell.unfinished else ""
    spread = "" if summary.sd is None else f" ± {summary.sd:.{decimals}f}"
    if summary.sd is None:
        marks += "†"
    return Cell(f"{summary.mean:.{decimals}f}{spread} ({summary.n})", summary.mean, marks=marks)


def _number(value: float | None, decimals: int) -> Cell:
    return EMPTY if value is None else Cell(f"{value:.{decimals}f}", value)


def _published(teacher: str, student: str) -> list[Cell]:
    """The poster's student, CE, teacher, tau, CE-L(tau) and KD; empty where it has none."""
    rows = published_table(TABLE)
    alone, own, taught = (
        find_published(rows, method, teacher, student) for method in (STUDENT, TEACHER, "KD")
    )
    return [
        _printed(alone.value if alone else None),
        _printed(_in_source(_LOSS, alone)),
        _printed(own.value if own else None),
        _printed(_in_source(_TAU, own)),
        _printed(_in_source(_LOSS, own)),
        _printed(taught.value if taught else None),
    ]


def _sources() -> list[str]:
    """Whose the published numbers are, and of which epoch."""
    rows = published_table(TABLE)
    told = [f"published: {row.source.split(';')[0]}; epoch: {row.statistic}" for row in rows]
    return list(dict.fromkeys(told))


def _in_source(pattern: re.Pattern[str], row: Published | None) -> str | None:
    """A number that a row's source says beside its accuracy."""
    found = row and pattern.search(row.source)
    return found.group(1) if found else None


def _printed(value: str | None) -> Cell:
    return EMPTY if value is None else Cell(value, float(value))


def _departures(found: _Found, teacher: str, student: str) -> list[str]:
    cell = found.taught or found.alone
    assert cell is not None
    differing = departures(cell.column.protocol, student)
    said = f"{teacher}/{student} differs from the published schedule: {'; '.join(differing)}"
    return [said] if differing else []

"""The second grid: a line for each cell, with the published number beside it, and the cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdkd_plugin.table.cells import Comparison, TableCell
from sdkd_plugin.table.grids import EMPTY, Cell, Grid, mark_notes
from sdkd_plugin.table.means import column_cells
from sdkd_plugin.table.published import (
    TEACHER,
    Published,
    departures,
    find_published,
    is_cifar100,
)

# percent; the published teachers' files score what was published, up to rounding
SAME_TEACHER = 0.05

DETAILS = "Rank, gain, published number and cost"  # what the poster has a number for: top-1


@dataclass(frozen=True)
class _Line:
    """A cell with what stands beside it; `differences` are the published run's from ours."""

    cell: TableCell
    printed: Cell
    number: Published | None
    differences: list[str]


def details_grid(comparison: Comparison, published: Sequence[Published]) -> Grid:
    """One line per cell: rank, gain over the vanilla student, the published number and the
    difference, and the cost.
    """
    metric = comparison.metric
    head = ["pair", "method", "n", metric.label, "rank", "gain", "published"]
    head += ["difference", "hours", "peak MiB", "parameters"]
    lines = _lines(comparison, published)
    rows = [_row(line) for line in lines]
    notes = metric.notes + mark_notes(rows) + _published_notes(lines) + _cost_notes(lines)

    used = [column for column in range(len(head)) if any(row[column] is not EMPTY for row in rows)]
    return Grid(
        name="details",
        title=DETAILS if metric.headline else "Rank, gain and cost",
        head=[head[column] for column in used],
        rows=[[row[column] for column in used] for row in rows],
        notes=notes,
    )


def published_number(cell: TableCell, published: Sequence[Published]) -> Published | None:
    """The published number for a cell; None as well where the cell's images are not the whole
    CIFAR-100.
    """
    column = cell.column
    if not is_cifar100(column.protocol) or column.teacher is None:
        return None
    return find_published(published, cell.row, column.teacher, column.student)


def published_difference(cell: TableCell, number: Published) -> float | None:
    """Our mean minus the published number, both of the same epoch, last or best; None where that
    number does not say which it is.
    """
    if number.statistic not in ("last", "best"):
        return None
    return cell.summary(number.statistic).mean - float(number.value)


def _lines(comparison: Comparison, published: Sequence[Published]) -> list[_Line]:
    lines = []
    for index, column in enumerate(comparison.columns):
        printed = column_cells(comparison, index, "last")
        for cell, shown in zip(comparison.in_column(index), printed, strict=True):
            if cell is None or not cell.finished:
                continue
            number = published_number(cell, published)
            differences = []
            if number is not None:
                theirs = f"the published {cell.row} has {number.schedule}"
                ours = departures(column.protocol, column.student)
                differences += [theirs] if number.schedule else ours
                teacher = comparison.teacher_score(index)
                differences += _other_teacher(teacher, number, published)
            lines.append(_Line(cell, shown, number, differences))
    return lines


def _other_teacher(
    score: float | None, number: Published, published: Sequence[Published]
) -> list[str]:
    """Says so if our teacher is not as good as the one behind a published number, or better."""
    table = [row for row in published if row.table == number.table]
    theirs = find_published(table, TEACHER, number.teacher, number.student)
    if score is None or theirs is None or abs(score - float(theirs.value)) <= SAME_TEACHER:
        return []
    return [f"teacher {score:.2f} % (published: {theirs.value})"]


def _row(line: _Line) -> list[Cell]:
    cell = line.cell
    metric = cell.metric
    beside = EMPTY
    difference = EMPTY
    if line.number is not None:
        marks = ("¶" if line.differences else "") + ("◊" if line.number.statistic == "best" else "")
        beside = Cell(line.number.value, float(line.number.value), marks=marks)
        away = published_difference(cell, line.number)
        difference = EMPTY if away is None else Cell(metric.signed(away), away)
    gain = EMPTY
    if cell.gain is not None:
        gain = Cell(metric.signed(cell.gain), cell.gain, marks="§" if cell.other_seeds else "")

    memory = cell.mean_of("peak_memory_mib")
    parameters = {run.record.deployed_parameters for run in cell.finished}
    return [
        Cell(cell.column.label),
        Cell(cell.row),
        Cell(str(len(cell.finished)), len(cell.finished)),
        line.printed,
        Cell(str(cell.rank), cell.rank),
        gain,
        beside,
        difference,
        EMPTY if cell.hours is None else Cell(f"{cell.hours:.3g}", cell.hours),
        EMPTY if memory is None else Cell(f"{memory:.0f}", memory),
        Cell(" or ".join(f"{count:,}" for count in sorted(parameters)), max(parameters)),
    ]


def _published_notes(lines: Sequence[_Line]) -> list[str]:
    beside = [line for line in lines if line.number is not None]
    differing = {line.cell.column.label: line.differences for line in beside}
    notes = [f"¶ {label}: {', '.join(keys)}" for label, keys in differing.items() if keys]
    numbers = [line.number for line in lines if line.number is not None]
    sources = [f"{number.source}; epoch: {number.statistic}" for number in numbers]
    if any(number.statistic == "unknown" for number in numbers):
        notes.append("no difference to a published number of an unknown epoch, last or best")
    return notes + [f"published: {source}" for source in dict.fromkeys(sources)]


def _cost_notes(lines: Sequence[_Line]) -> list[str]:
    environments = [run.record.environment for line in lines for run in line.cell.alone]
    devices = sorted({_device(environment) for environment in environments if environment})

    notes = []
    together = sum(len(line.cell.finished) - len(line.cell.alone) for line in lines)
    if together:
        notes.append(
            f"{together} runs were trained together with others, whose times and memory are no "
            "run's own: hours and peak MiB leave them out"
        )
    if devices:
        notes.append(
            f"hours and peak MiB: means over seeds, measured on {' and on '.join(devices)}"
        )
        notes.append(
            "peak MiB on a CPU is the whole process's, with whatever runs it had made before"
        )
    if len(devices) > 1:
        notes.append(
            "hours and peak MiB of different devices or thread counts stand side by side here: do "
            "not compare them"
        )
    return notes


def _device(environment: Mapping[str, Any]) -> str:
    threads = environment.get("threads")
    return f"{environment.get('device')}" + (f" with {threads} threads" if threads else "")

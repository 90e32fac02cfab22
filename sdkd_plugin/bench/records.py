"""The table as records, one for each cell and one for each folder that does not count: what CSV holds, with all digits."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from sdkd_plugin.bench.grid import Grid, listed_runs, published_number
from sdkd_plugin.bench.published import Published
from sdkd_plugin.bench.table import Comparison, TableCell

FIELDS = (
    "status",  # cell | a listed folder's: invalid, unfinished, duplicate, teacher
    "teacher",
    "student",
    "protocol",  # the column's letter; its meaning stands in `differs`
    "method",
    "n",
    "unfinished",
    "last_mean",
    "last_sd",
    "best_epoch_mean",
    "best_epoch_sd",
    "evaluates",
    "is_best",
    "rank",
    "gain",
    "gain_same_seeds",
    "published",
    "published_epoch",
    "difference",
    "hours",
    "peak_memory_mib",
    "parameters",
    "seeds",
    "differs",
    "note",
)


def records(comparison: Comparison, published: Sequence[Published]) -> list[dict[str, Any]]:
    """One record per cell in the table's order, then one per listed folder. Accuracies in percent."""
    rows = []
    for index in range(len(comparison.columns)):
        cells = [comparison.cells[row, index] for row in comparison.rows if (row, index) in comparison.cells]
        rows += [_record(cell, comparison, published) for cell in cells]
    for line in listed_runs(comparison):
        status, note = line.split(": ", 1)
        rows.append({"status": status, "note": note})
    return rows


def _record(cell: TableCell, comparison: Comparison, published: Sequence[Published]) -> dict[str, Any]:
    column = cell.column
    record = {
        "status": "cell",
        "teacher": column.teacher,
        "student": column.student,
        "protocol": column.letter,
        "method": cell.row,
        "n": len(cell.finished),
        "unfinished": len(cell.unfinished),
        "evaluates": (cell.finished + cell.unfinished)[0].evaluates,
        "seeds": " ".join(str(seed) for seed in sorted(run.seed for run in cell.finished)),
        "differs": "; ".join(f"{key} {value}" for key, value in comparison.differing.get(column.letter, {}).items()),
    }
    if not cell.finished:
        return record
    last, best, number = cell.summary("last"), cell.summary("best"), published_number(cell, published)
    record.update(
        last_mean=last.mean,
        last_sd=last.sd,
        best_epoch_mean=best.mean,
        best_epoch_sd=best.sd,
        is_best=cell.rank == 1,
        rank=cell.rank,
        gain=cell.gain,
        gain_same_seeds=None if cell.gain is None else not cell.other_seeds,
        hours=cell.mean_of("wall_seconds") / 3600,
        peak_memory_mib=cell.mean_of("peak_memory_mib"),
        parameters=cell.mean_of("student_parameters"),
    )
    if number is not None:
        record.update(
            published=number.value, published_epoch=number.statistic, difference=last.mean - float(number.value)
        )
    return record


def records_csv(rows: Sequence[dict[str, Any]], versus: Grid | None) -> str:
    """CSV text of the records; with `versus` its columns stand beside each cell's."""
    extra = {} if versus is None else _by_cell(versus)
    names = [] if versus is None else [f"versus {name}" for name in versus.head[2:]]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FIELDS, *names], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        label = f"{row.get('teacher') or '-'}/{row.get('student')}" + (f" [{row['protocol']}]" if row.get("protocol") else "")
        values = extra.get((label, row.get("method")), [""] * len(names))
        writer.writerow({**row, **dict(zip(names, values, strict=True))})
    return text.getvalue()


def grid_csv(grid: Grid) -> str:
    """CSV text of one grid as printed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(grid.head)
    writer.writerows([cell.text for cell in row] for row in grid.rows)
    return text.getvalue()


def _by_cell(versus: Grid) -> dict[tuple[str, str], list[str]]:
    return {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in versus.rows}

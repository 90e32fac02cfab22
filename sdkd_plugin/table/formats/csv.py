"""The table as records, one for each cell and one for each folder that does not count: what CSV
holds, with all digits.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

from sdkd_plugin.table.cells import Comparison, TableCell
from sdkd_plugin.table.grids import Grid, listed_runs, published_number
from sdkd_plugin.table.published import Published
from sdkd_plugin.table.versus import PairedTest, Versus

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
VERSUS_FIELDS = (
    # the method that is tested against this record's; differences are versus minus method
    "versus",
    "versus_n",
    "versus_difference",
    "versus_low",
    "versus_high",
    "versus_p",
    "versus_smallest_p",
    "versus_p_holm",
)


def records(
    comparison: Comparison, published: Sequence[Published], versus: Versus | None
) -> list[dict[str, Any]]:
    """One record per cell in the table's order, then one per listed folder. Accuracies in
    percent.
    """
    tests = (
        {}
        if versus is None
        else {(test.cell.column.label, test.cell.row): test for test in versus.tests}
    )
    rows = []
    for index, column in enumerate(comparison.columns):
        cells = [
            comparison.cells[row, index]
            for row in comparison.rows
            if (row, index) in comparison.cells
        ]
        for cell in cells:
            test = tests.get((column.label, cell.row))
            rows.append(
                {
                    **_record(cell, comparison, published),
                    **({} if test is None else _test_fields(versus.ours, test)),
                }
            )
    for line in listed_runs(comparison):
        status, note = line.split(": ", 1)
        rows.append({"status": status, "note": note})
    return rows


def _record(
    cell: TableCell, comparison: Comparison, published: Sequence[Published]
) -> dict[str, Any]:
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
        "differs": "; ".join(
            f"{key} {value}" for key, value in comparison.differing.get(column.letter, {}).items()
        ),
    }
    if not cell.finished:
        return record
    last, best, number = (
        cell.summary("last"),
        cell.summary("best"),
        published_number(cell, published),
    )
    record.update(
        last_mean=last.mean,
        last_sd=last.sd,
        best_epoch_mean=best.mean,
        best_epoch_sd=best.sd,
        is_best=cell.rank == 1,
        rank=cell.rank,
        gain=cell.gain,
        gain_same_seeds=None if cell.gain is None else not cell.other_seeds,
        hours=cell.hours,
        peak_memory_mib=cell.mean_of("peak_memory_mib"),
        parameters=cell.mean_of("deployed_parameters"),
    )
    if number is not None:
        record.update(
            published=number.value,
            published_epoch=number.statistic,
            difference=last.mean - float(number.value),
        )
    return record


def _test_fields(ours: str, test: PairedTest) -> dict[str, Any]:
    paired = test.paired
    values = (
        ours,
        paired.n,
        paired.mean,
        paired.low,
        paired.high,
        paired.p,
        paired.smallest_p,
        test.holm_p,
    )
    return dict(zip(VERSUS_FIELDS, values, strict=True))


def records_csv(rows: Sequence[dict[str, Any]]) -> str:
    """CSV text of the records; the columns of a paired test are there if any record has one."""
    tested = any(VERSUS_FIELDS[0] in row for row in rows)
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [*FIELDS, *(VERSUS_FIELDS if tested else ())], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def grid_csv(grid: Grid) -> str:
    """CSV text of one grid as printed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(grid.head)
    writer.writerows([cell.text for cell in row] for row in grid.rows)
    return text.getvalue()

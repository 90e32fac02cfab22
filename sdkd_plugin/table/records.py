"""The table as records, one for each cell and one for each folder that does not count, with all
digits: what csv, json and a data frame hold.
"""

from statistics import fmean
from typing import Any

from sdkd_plugin.table.cells import Comparison, TableCell
from sdkd_plugin.table.details import published_difference, published_number
from sdkd_plugin.table.report import Report
from sdkd_plugin.table.versus import PairedTest

FIELDS = (
    "status",  # cell | an excluded folder's, one of report.STATUSES
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
# the sign patterns that p is counted over: all, or so many drawn; there if any are drawn
PATTERNS = "versus_patterns"
# of `ranks`, a published table: both ranks of the method, and Spearman's rho of the pair with its
# interval
RANKS_FIELDS = ("ranks", "ranks_here", "ranks_there", "ranks_rho", "ranks_low", "ranks_high")
METRIC = "metric"  # its name; the values are in its unit


def fields_of(report: Report) -> list[str]:
    """The names of what a record may hold, in order; those of the paired tests and of the ranks are
    there if there is any.
    """
    fields = [*FIELDS]
    if report.versus is not None and report.versus.tests:
        fields += [*VERSUS_FIELDS, *([PATTERNS] if report.versus.sampled else [])]
    if report.ranks:
        fields += RANKS_FIELDS
    return [*fields, METRIC]


def all_records(report: Report) -> list[dict[str, Any]]:
    """What a report holds, each record with every field, None where it has none; a published table
    alone has a record for each of its rows.
    """
    if report.comparison is None:
        return [
            {
                name: cell.text if cell.value is None else cell.value
                for name, cell in zip(grid.head, row, strict=True)
            }
            for grid in report.grids
            for row in grid.rows
        ]
    fields = fields_of(report)
    records = make_records(report.comparison, report)
    return [{name: record.get(name) for name in fields} for record in records]


def make_records(comparison: Comparison, report: Report) -> list[dict[str, Any]]:
    """One record per cell in the table's order, then one per excluded folder."""
    tests = {}
    if report.versus is not None:
        ours = report.versus.ours
        tests = {id(test.cell): _test_fields(ours, test) for test in report.versus.tests}

    ranks = _ranks_fields(report)
    records = []
    for index in range(len(comparison.columns)):
        for cell in comparison.in_column(index):
            if cell is None:
                continue
            record = _record(cell, comparison)
            if cell.finished:
                record |= _score_fields(cell) | _published_fields(cell, report)
            records.append(record | tests.get(id(cell), {}) | ranks.get(id(cell), {}))

    records += [{"status": run.status, "note": run.sentence} for run in report.excluded]
    return records


def _record(cell: TableCell, comparison: Comparison) -> dict[str, Any]:
    column = cell.column
    differing = comparison.differing.get(column.letter, {})
    return {
        "status": "cell",
        "teacher": column.teacher,
        "student": column.student,
        "protocol": column.letter,
        "method": cell.row,
        "n": len(cell.finished),
        "unfinished": len(cell.unfinished),
        "evaluates": cell.runs[0].evaluates,
        "seeds": " ".join(str(seed) for seed in sorted(run.seed for run in cell.finished)),
        "differs": "; ".join(f"{key} {value}" for key, value in differing.items()),
        METRIC: cell.metric.name,
    }


def _score_fields(cell: TableCell) -> dict[str, Any]:
    last = cell.summary("last")
    best = cell.summary("best")
    return {
        "last_mean": last.mean,
        "last_sd": last.sd,
        "best_epoch_mean": best.mean,
        "best_epoch_sd": best.sd,
        "is_best": cell.rank == 1,
        "rank": cell.rank,
        "gain": cell.gain,
        "gain_same_seeds": None if cell.gain is None else not cell.other_seeds,
        "hours": cell.hours,
        "peak_memory_mib": cell.mean_of("peak_memory_mib"),
        "parameters": fmean(run.record.deployed_parameters for run in cell.finished),
    }


def _published_fields(cell: TableCell, report: Report) -> dict[str, Any]:
    number = published_number(cell, report.published)
    if number is None:
        return {}
    return {
        "published": number.value,
        "published_epoch": number.statistic,
        "difference": published_difference(cell, number),
    }


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
    return dict(zip(VERSUS_FIELDS, values, strict=True)) | {PATTERNS: paired.patterns}


def _ranks_fields(report: Report) -> dict[int, dict[str, Any]]:
    """By cell, what RANKS_FIELDS say of it."""
    fields = {}
    for pair in report.ranks:
        for each in pair.methods:
            ranks = (report.options.ranks, each.rank, each.published_rank)
            values = (*ranks, pair.rho, pair.low, pair.high)
            fields[id(each.cell)] = dict(zip(RANKS_FIELDS, values, strict=True))
    return fields

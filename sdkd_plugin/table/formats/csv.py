"""The table as records, see `table.records`. A published table alone is printed as it stands."""

import csv
import io
from typing import Any

from sdkd_plugin.printable import printable
from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.grids import Grid
from sdkd_plugin.table.records import fields_of, make_records
from sdkd_plugin.table.report import Report

FORMULA = "=+-@＝＋－＠"  # a spreadsheet computes what begins so


@FORMATS.register("csv")
def render(report: Report) -> str:
    """The columns of the paired tests are there if there is any test."""
    if report.comparison is None:
        return "".join(map(_grid_csv, report.grids))

    records = make_records(report.comparison, report)
    text = io.StringIO()
    writer = csv.DictWriter(text, fields_of(report), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _safe(value) for key, value in each.items()} for each in records)
    return text.getvalue()


def _grid_csv(grid: Grid) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_safe, grid.head))
    writer.writerows([_safe(cell.text) for cell in row] for row in grid.rows)
    return text.getvalue()


def _safe(value: Any) -> Any:
    """Text with a quotation mark before what would be a formula, and printable; else the value."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    formula = text.lstrip()[:1] in FORMULA and text.strip() != ""
    return f"'{text}" if formula and not _is_numeral(text) else text


def _is_numeral(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

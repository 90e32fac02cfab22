"""The comparison as one page that needs nothing but itself: no script, style, font or picture from
elsewhere.
"""

import time
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sdkd_plugin.printable import printable
from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.grids import Grid
from sdkd_plugin.table.page.sections import all_sections, rows_at_first
from sdkd_plugin.table.page.style import swatch
from sdkd_plugin.table.report import Report

# heads of the columns that say what a row is of
NAMES = ("pair", "method", "against", "class", "network")


@FORMATS.register("html")
def render(report: Report) -> str:
    """The report's tables; with a comparison also its curves, its costs, its ranks and pairs, what
    studies found, the folders that do not count and every run with its config.
    """
    pages = Environment(
        loader=PackageLoader("sdkd_plugin.table.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spelled,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["row_heads"] = row_heads
    return pages.get_template("page.html.j2").render(
        sections=all_sections(report),
        legend=_legend(report),
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def row_heads(grid: Grid) -> list[int]:
    """Positions of the columns that a reader hears before a cell; the first, where none is known
    to name rows.
    """
    return [place for place, name in enumerate(grid.head) if name in NAMES] or [0]


def _spelled(value: Any) -> Any:
    """What a template shows; jinja escapes the result, unless it is markup of our own."""
    return value if isinstance(value, Markup) else printable(str(value))


def _legend(report: Report) -> list[tuple[str, Markup, bool]]:
    """For each row of the table its name, how it looks, and whether it is shown at first."""
    comparison = report.comparison
    if comparison is None:
        return []
    shown = rows_at_first(report, comparison)
    return [(name, swatch(row), name in shown) for row, name in enumerate(comparison.rows)]

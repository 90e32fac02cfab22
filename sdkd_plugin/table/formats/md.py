"""GitHub's Markdown tables."""

import re
from collections.abc import Iterable

from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.grids import Cell, Grid
from sdkd_plugin.table.report import EXCLUDED, Report

# What would be markup in a name from somebody's run folder: HTML and its entities, emphasis, code,
# formulas, the middle of a link;
MARKUP = re.compile(r"[\\`*~$<|]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|(?<=\])[(\[]")
# and at the start of a line: a heading, a quotation, a list, what a link means
START = re.compile(r"^(\s*)([#>+=-]|\d+(?=[.)])|\[(?=[^\]]*\]:))")


@FORMATS.register("md")
def render(report: Report) -> str:
    """The best cell of a column is bold."""
    parts = [part for grid in report.grids for part in _grid_parts(grid)]
    if report.excluded:
        parts += [f"### {EXCLUDED}", _items(map(str, report.excluded))]
    return "\n\n".join(parts) + "\n"


def _grid_parts(grid: Grid) -> list[str]:
    sides = [":--" if number in grid.text_columns else "--:" for number in range(len(grid.head))]
    lines = [_row(map(escape, grid.head)), _row(sides)]
    lines += [_row([_bold(cell) for cell in row]) for row in grid.rows]
    parts = [f"### {escape(grid.title)}", "\n".join(lines)]
    if grid.notes:
        parts.append(_items(grid.notes))
    return parts


def _row(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _bold(cell: Cell) -> str:
    text = escape(cell.marked)
    return f"**{text}**" if cell.best else text


def escape(text: str) -> str:
    """Text that shows as it stands, inside a line."""
    return MARKUP.sub(r"\\\g<0>", text)


def _items(texts: Iterable[str]) -> str:
    """A list, one line for each."""
    return "\n".join("- " + START.sub(r"\1\\\2", escape(text)) for text in texts)

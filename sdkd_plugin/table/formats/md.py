"""GitHub's Markdown tables."""

from collections.abc import Sequence

from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.grids import Cell, Grid
from sdkd_plugin.table.report import EXCLUDED, Report


@FORMATS.register("md")
def render(report: Report) -> str:
    """The best cell of a column is bold."""
    parts = [part for grid in report.grids for part in _grid_parts(grid)]
    if report.excluded:
        parts += [f"### {EXCLUDED}", "\n".join(f"- {run}" for run in report.excluded)]
    return "\n\n".join(parts) + "\n"


def _grid_parts(grid: Grid) -> list[str]:
    sides = [":--" if number in grid.text_columns else "--:" for number in range(len(grid.head))]
    lines = [_row(grid.head), _row(sides)]
    lines += [_row([_bold(cell) for cell in row]) for row in grid.rows]
    parts = [f"### {grid.title}", "\n".join(lines)]
    if grid.notes:
        parts.append("\n".join(f"- {note}" for note in grid.notes))
    return parts


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _bold(cell: Cell) -> str:
    return f"**{cell.marked}**" if cell.best else cell.marked

"""Boxed tables for the terminal."""

import io

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.grids import Cell, Grid
from sdkd_plugin.table.report import EXCLUDED, Report

WIDE = 1000  # characters; a table in a file or a pipe is never folded


@FORMATS.register("terminal")
def render(report: Report) -> str:
    """The best cell of a column is bold and starred, so that it shows without colours as well."""
    options = report.options
    text = io.StringIO()
    console = Console(
        file=text,
        width=options.width or WIDE,
        force_terminal=options.colour,
        highlight=False,
    )
    for grid in report.grids:
        _print_grid(console, grid)
    if report.excluded:
        _print_line(console, f"{EXCLUDED}:")
    for run in report.excluded:
        _print_line(console, str(run))

    lines = text.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def _print_grid(console: Console, grid: Grid) -> None:
    _print_line(console, grid.title, style="bold italic")
    table = Table()
    for number, name in enumerate(grid.head):
        table.add_column(Text(name), justify="left" if number in grid.text_columns else "right")
    for row in grid.rows:
        table.add_row(*map(_styled, row))
    console.print(table)

    if any(cell.best for row in grid.rows for cell in row):
        _print_line(console, "* best of its column")
    for note in grid.notes:
        _print_line(console, note)
    console.print()


def _print_line(console: Console, line: str, style: str = "") -> None:
    # a Text, so that brackets are no markup
    console.print(Text(line, style=style), soft_wrap=True)


def _styled(cell: Cell) -> Text:
    return Text(f"{cell.marked}*", style="bold") if cell.best else Text(cell.marked)

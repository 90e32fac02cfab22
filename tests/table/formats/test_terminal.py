import re

from support.tables import report_of, table

from sdkd_plugin.table.formats.terminal import render
from sdkd_plugin.table.grids import Cell, Grid
from sdkd_plugin.table.report import Excluded


def test_terminal_marks_the_best_without_colours(mixed_runs):
    shown = table(mixed_runs, "terminal")
    assert "│ SDKD    │      73.50 (1)†‡* │" in shown and "\x1b" not in shown


def test_colour_and_width_are_options_of_the_report():
    grid = Grid("g", "t", ["a"], [[Cell("1", 1.0, best=True)], [Cell("word " * 20)]])
    coloured = render(report_of(grid, width=40, colour=True))
    assert re.search(r"\x1b\[1m *1\*", coloured)
    narrow = render(report_of(grid, width=40)).splitlines()
    assert max(map(len, narrow)) == 40
    assert max(map(len, render(report_of(grid)).splitlines())) > 100


def test_brackets_are_no_rich_markup():
    grid = Grid("g", "t", ["r56/r20 [a]"], [[Cell("[bold]x")]], ["[a] lr"])
    shown = render(report_of(grid, excluded=(Excluded("invalid", "[b]", "gone"),)))
    for text in ("r56/r20 [a]", "[bold]x", "[a] lr", "[b]: gone"):
        assert text in shown

"""Tables of run folders, as the command line makes them."""

from pathlib import Path
from typing import Any

from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.grids import Grid
from sdkd_plugin.table.report import Excluded, Report, TableOptions, make_report


def table(folder: Path, style: str = "md", **options: Any) -> str | bytes:
    """The table of the runs under `folder`; `options` are those of TableOptions."""
    return FORMATS[style].build(report_of_runs(folder, **options))


def report_of(*grids: Grid, excluded: tuple[Excluded, ...] = (), **options: Any) -> Report:
    """A report of nothing but these grids and excluded runs."""
    return Report(TableOptions(**options), grids, excluded)


def report_of_runs(folder: Path, **options: Any) -> Report:
    """The report of the runs under `folder`; `options` are those of TableOptions."""
    return make_report(TableOptions(folders=(folder,), **options))

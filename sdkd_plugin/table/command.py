"""What `python tools/table.py` does: find runs, build the table, print or write it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import write_text
from sdkd_plugin.runs.read import Rejected, Run, read_runs
from sdkd_plugin.table.cells import Comparison, compare_runs
from sdkd_plugin.table.formats.csv import grid_csv, records, records_csv
from sdkd_plugin.table.formats.html import html_page
from sdkd_plugin.table.formats.text import TEXT_FORMATS, terminal
from sdkd_plugin.table.grids import (
    Grid,
    details_grid,
    listed_runs,
    main_grid,
    published_grid,
    versus_grid,
)
from sdkd_plugin.table.published import Published, load_published, published_table
from sdkd_plugin.table.versus import run_versus

FORMATS = (*TEXT_FORMATS, "csv", "html")


def make_table(
    folders: Sequence[str],
    style: str,
    output: str | None = None,
    versus: str | None = None,
    best_epoch: bool = False,
    published: str | None = None,
    split: Sequence[str] = (),
    upstream: Sequence[str] = (),
) -> None:
    """Prints the comparison of the runs under `folders`, or writes it to `output`.

    Args:
        folders: searched recursively; none: the published table alone.
        style: one of FORMATS.
        versus: the method to test against every other, paired by seed.
        best_epoch: show the best epoch beside the last.
        published: which published table; with runs None means any that has the number, the poster
            first.
        split: method settings whose values get rows of their own.
        upstream: runs of mdistiller's trainer, each as PATH:METHOD:TEACHER/STUDENT:SEED.
    Raises:
        UserError: neither folders nor a published table, or anything wrong with them.
    """
    if not folders and not upstream:
        if published is None:
            raise UserError(
                "nothing to tabulate: give folders that hold runs, or --published poster for the "
                "paper's own table"
            )
        for name, given in (("--versus", versus), ("--best", best_epoch), ("--split", split)):
            if given:
                raise UserError(
                    f"{name} needs runs; a published table has one number per cell: give folders "
                    f"that hold runs"
                )
        text = _published_text(published_grid(published_table(published)), style, _screen(output))
    else:
        numbers = load_published() if published is None else published_table(published)
        comparison = compare_runs(*_read(folders, upstream), split)
        text = comparison_text(
            comparison, numbers, style, versus, best_epoch, split, _screen(output)
        )
    if output is None:
        sys.stdout.write(text)
    else:
        write_output(Path(output), text)


def _read(folders: Sequence[str], upstream: Sequence[str]) -> tuple[list[Run], list[Rejected]]:
    runs, rejected = read_runs(folders)
    if upstream:
        from sdkd_plugin.runs.mdistiller import (
            read_upstream,  # brings torch, which a table of our own runs does not need
        )

        theirs = [read_upstream(named) for named in upstream]
        runs += [run for run in theirs if isinstance(run, Run)]
        named = {run.path.resolve() for run in theirs}
        rejected = [bad for bad in rejected if bad.path.resolve() not in named]
        rejected += [bad for bad in theirs if isinstance(bad, Rejected)]
    return runs, rejected


def comparison_text(
    comparison: Comparison,
    numbers: Sequence[Published],
    style: str,
    versus: str | None = None,
    best_epoch: bool = False,
    split: Sequence[str] = (),
    screen: int | None = None,
) -> str:
    """The table in one of FORMATS. screen: columns of the terminal it is printed to, or None."""
    tests = None if versus is None else run_versus(comparison, versus)
    if style == "csv":
        return records_csv(records(comparison, numbers, tests))
    grids = [main_grid(comparison, best_epoch), details_grid(comparison, numbers)]
    if tests is not None:
        grids.append(versus_grid(tests))
    if style == "html":
        return html_page(grids, comparison, split)
    return _text(grids, listed_runs(comparison), style, screen)


def _published_text(grid: Grid, style: str, screen: int | None) -> str:
    if style == "csv":
        return grid_csv(grid)
    return html_page([grid], None) if style == "html" else _text([grid], [], style, screen)


def _text(grids: Sequence[Grid], listed: Sequence[str], style: str, screen: int | None) -> str:
    if style == "terminal":
        return terminal(grids, listed, screen, colour=screen is not None)
    return TEXT_FORMATS[style](grids, listed)


def write_output(path: Path, text: str) -> None:
    """Writes the file whole or not at all.

    Raises:
        UserError: the folder does not exist, or `path` is one.
    """
    if path.is_dir() or not path.parent.is_dir():
        fault = (
            "is a folder"
            if path.is_dir()
            else f"cannot be written: there is no folder {path.parent}"
        )
        raise UserError(f"--output {path} {fault}; give a file in a folder that exists")
    write_text(path, text)


def _screen(output: str | None) -> int | None:
    return os.get_terminal_size().columns if output is None and sys.stdout.isatty() else None

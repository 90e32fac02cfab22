"""What holds of every format there is."""

import io
import re
from contextlib import redirect_stdout

import pytest
from support.tables import table

from sdkd_plugin.__main__ import main
from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.report import Report

NAMES = [entry.name for entry in FORMATS]
TEXTS = [name for name in NAMES if name != "png"]


def test_these_are_the_packages_own():
    assert NAMES == ["csv", "html", "json", "latex", "md", "png", "terminal"]


@pytest.mark.parametrize("style", NAMES)
def test_every_format_renders_runs_of_every_status(mixed_runs, style):
    if style == "png":
        pytest.importorskip("matplotlib", reason="needs the extra plots")
    rendered = table(mixed_runs, style)
    assert isinstance(rendered, bytes if style == "png" else str) and len(rendered) > 1000


@pytest.mark.parametrize("style", TEXTS)
def test_folders_that_do_not_count_are_listed(mixed_runs, style):
    shown = table(mixed_runs, style)
    for start, name in (
        ("invalid", "seed9"),
        ("unfinished", "seed1"),
        ("duplicate", "copy"),
        ("teacher", "NONE-"),
    ):
        assert re.search(rf"{start}\b.*{name}", shown), start


@pytest.fixture
def shout():
    """A format from outside, and back to those there were."""

    @FORMATS.register("shout")
    def render(report: Report) -> str:
        return f"{report.grids[0].title.upper()}!\n"

    yield
    del FORMATS._entries["shout"]


def test_a_format_from_outside_is_one_of_the_command_lines(mixed_runs, shout, capsys):
    assert main(["table", str(mixed_runs), "--format", "shout"]) == 0
    assert capsys.readouterr().out.startswith("TOP-1 ACCURACY (%) ON THE TEST IMAGES")
    assert main(["table", str(mixed_runs), "--format", "shouts"]) == 2
    told = capsys.readouterr().err
    assert "did you mean 'shout'? known: csv, html, json, latex, md, png, shout" in told


def test_an_unknown_format_is_told_before_any_run_is_read(capsys):
    assert main(["table", "/no/such/folder", "--format", "hmtl"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: unknown format 'hmtl' in --format: did you mean 'html'? known: ")
    assert told.count("\n") == 1


def test_the_help_names_every_format_of_the_package():
    shown = io.StringIO()
    with pytest.raises(SystemExit), redirect_stdout(shown):
        main(["table", "--help"])
    line = re.search(r"\n  --format FORMAT(.*?)--output", shown.getvalue(), re.DOTALL).group(1)
    for name in NAMES:
        assert re.search(rf"\b{name}\b", line), name

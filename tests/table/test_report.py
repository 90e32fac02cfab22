from pathlib import Path

import pytest

from sdkd_plugin.errors import UserError
from sdkd_plugin.table.published import published_table
from sdkd_plugin.table.report import STATUSES, Excluded, TableOptions, make_report


def test_a_report_holds_all_that_a_format_can_show(mixed_runs):
    options = TableOptions(folders=(mixed_runs,), versus="kd")
    report = make_report(options)
    assert report.options == options
    assert [grid.name for grid in report.grids] == ["accuracy", "details", "versus"]
    assert report.comparison.rows == ["student", "KD", "SDKD"]
    assert report.versus.ours == "KD" and len(report.versus.tests) == 2
    assert {row.table for row in report.published} >= {"poster", "repdistiller"}
    assert make_report(TableOptions(folders=(mixed_runs,))).versus is None


def test_excluded_runs_are_typed(mixed_runs):
    excluded = make_report(TableOptions(folders=(mixed_runs,))).excluded
    assert [run.status for run in excluded] == ["invalid", "unfinished", "duplicate", "teacher"]
    assert all(run.path.is_dir() and run.path.is_relative_to(mixed_runs) for run in excluded)
    assert {run.status for run in excluded} <= set(STATUSES)

    invalid, unfinished, duplicate, teacher = excluded
    assert "result.json is no valid json" in invalid.reason
    assert unfinished.reason == "1 epochs done, SOLVER.EPOCHS 2; go on with --resume"
    assert duplicate.reason.startswith("(69.00) is the same run as ")
    assert duplicate.reason.endswith("/seed0 (69.00), which counts")
    assert teacher.reason == "vanilla resnet56, top-1 72.00; no column learns with it as student"


def test_an_excluded_run_is_a_sentence_whatever_its_path_holds():
    run = Excluded("invalid", Path("a: b/c"), "torn: half")
    assert (str(run), run.sentence) == ("invalid: a: b/c: torn: half", "a: b/c: torn: half")
    twice = Excluded("duplicate", Path("a"), "(1) is the same run as b (1), which counts")
    assert str(twice) == "duplicate: a (1) is the same run as b (1), which counts"


def test_a_published_table_alone_has_no_comparison():
    report = make_report(TableOptions(published="poster"))
    assert report.comparison is None and report.versus is None and report.excluded == ()
    assert report.published == tuple(published_table("poster"))
    assert [grid.name for grid in report.grids] == ["published"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to tabulate"),
        ({"published": "poster", "versus": "KD"}, "--versus needs runs"),
        ({"published": "poster", "best_epoch": True}, "--best needs runs"),
        ({"published": "poster", "split": ("KD.TAU",)}, "--split needs runs"),
        ({"published": "poster", "metric": "loss"}, "--metric needs runs"),
    ],
)
def test_options_without_effect_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_report(TableOptions(**options))

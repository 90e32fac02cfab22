import csv
import io

import pytest
from support.tables import table

from sdkd_plugin.__main__ import main
from sdkd_plugin.table.details import details_grid
from sdkd_plugin.table.published import Published
from sdkd_plugin.table.report import TableOptions, make_report

REFUSED = "no difference to a published number of an unknown epoch, last or best"


def test_another_teacher_than_the_published_is_named(make_run, tmp_path):
    path = make_run("KD", 0, [70.0]) / "result.json"
    assert "teacher 72.34" not in table(tmp_path)
    path.write_text(path.read_text().replace('"top1": 72.34', '"top1": 65.04'))
    assert "teacher 65.04 % (published: 72.34)" in table(tmp_path)


@pytest.mark.parametrize("method, published", [("KD", "71.43"), ("DKD", "72.32")])
def test_lskds_own_numbers_stand_beside_runs_with_standardised_logits(
    make_run, tmp_path, method, published
):
    make_run(method, 0, [70.0])
    make_run(method, 0, [71.0], [f"{method}.LOGIT_STANDARD", "True"])
    report = make_report(TableOptions(folders=(tmp_path,), published="newer"))
    grid = details_grid(report.comparison, report.published)
    assert [row[grid.head.index("method")].text for row in grid.rows] == [method, f"{method}+LSKD"]
    beside = [row[grid.head.index("published")].text for row in grid.rows]
    assert beside == ["", published]


def test_a_number_of_another_schedule_is_told_as_such_and_not_held_against_repdistillers(
    make_run, tmp_path
):
    make_run("MLLD", 0, [70.0], ["DATASET.VIEWS", "2", "SOLVER.LR", "0.025"])
    shown = table(tmp_path, published="newer")
    assert "72.19¶◊" in shown
    assert "¶ resnet56/resnet20: the published MLLD has its authors' own schedule" in shown
    assert "(published: " not in shown


def test_costs_of_different_devices_are_marked(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    assert "do not compare them" not in table(tmp_path)
    make_run("SDKD", 0, [71.0], device="cuda Big")
    shown = table(tmp_path)
    assert "cpu Test with 1 threads and on cuda Big with 1 threads" in shown
    assert "do not compare them" in shown


@pytest.mark.parametrize(
    "statistic, beside",
    [("last", ["70.00¶", "+2.00"]), ("best", ["70.00¶◊", "+4.00"]), ("unknown", ["70.00¶"])],
)
def test_a_published_number_is_compared_with_the_same_epoch_of_ours(
    make_run, tmp_path, statistic, beside
):
    make_run("KD", 0, [73.0, 71.0])
    make_run("KD", 1, [75.0, 73.0])  # last 72, best 74
    comparison = make_report(TableOptions(folders=(tmp_path,))).comparison
    number = Published("t", "KD", "resnet56", "resnet20", "70.00", statistic, None, "a paper")
    grid = details_grid(comparison, [number])
    (row,) = grid.rows
    places = [grid.head.index(name) for name in ("published", "difference") if name in grid.head]
    assert [row[place].text + row[place].marks for place in places] == beside
    assert (REFUSED in grid.notes) == (statistic == "unknown")


@pytest.mark.parametrize(
    "published, method, settings, difference",
    [
        ("poster", "KD", [], None),  # unknown
        ("newer", "DIST", [], None),  # unknown
        ("newer", "KD", ["KD.LOGIT_STANDARD", "True"], "+0.57"),  # best 72.00 against 71.43
        ("repdistiller", "KD", [], "-0.66"),  # last 70.00 against 70.66
        ("repdistiller", "DKD", [], "+0.03"),  # best 72.00 against 71.97
        ("repdistiller", "REVIEWKD", [], None),  # unknown
    ],
)
def test_the_command_prints_no_difference_across_epochs(
    make_run, tmp_path, capsys, published, method, settings, difference
):
    make_run(method, 0, [72.0, 70.0], settings)
    assert main(["table", str(tmp_path), "--published", published, "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["published"]
    assert row["difference"] == "" or f"{float(row['difference']):+.2f}" == difference
    assert (row["difference"] == "") == (difference is None)
    shown = table(tmp_path, published=published)
    assert (REFUSED in shown) == (difference is None)

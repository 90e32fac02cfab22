import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from support.tables import table

from sdkd_plugin.__main__ import main
from sdkd_plugin.errors import UserError
from sdkd_plugin.table.published import Published
from sdkd_plugin.table.ranks import bootstrap, rank_columns, spearman
from sdkd_plugin.table.report import TableOptions, make_report

# the poster's for resnet56/resnet20, from the best: SDKD 72.11, DML 71.48, KD 70.66, FitNet 69.21
OURS = {"SDKD": 60.0, "DML": 63.0, "KD": 62.0, "FITNET": 61.0}


@pytest.fixture
def four(make_run, tmp_path):
    for method, top1 in OURS.items():
        make_run(method, 0, [top1])
    return tmp_path


def test_rho_by_hand():
    # ranks 1 2 3 4 against 2 1 4 3: squared differences 1 each, 1 - 6 * 4 / (4 * 15)
    assert spearman(np.array([1.0, 5, 6, 9]), np.array([3.0, 2, 8, 7])) == pytest.approx(0.6)


def test_rho_is_scipys_with_ties_too():
    values = np.random.default_rng(0).integers(5, size=(2, 20, 9)).astype(float)
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(*values, strict=True)]
    np.testing.assert_allclose(spearman(*values), expected, atol=1e-12)


def test_rho_of_equal_values_is_none():
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))
    assert bootstrap(np.ones(4), np.arange(4.0)) is None


def test_the_interval_is_scipys_bootstrap_as_far_as_chance_allows():
    generator = np.random.default_rng(1)
    ours = generator.normal(size=25)
    theirs = ours + generator.normal(size=25)
    low, high = bootstrap(ours, theirs)
    theirs_interval = stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: spearman(a, b),
        paired=True,
        vectorized=True,
        axis=-1,
        method="percentile",
        random_state=2,
    ).confidence_interval
    assert low == pytest.approx(theirs_interval.low, abs=0.02)
    assert high == pytest.approx(theirs_interval.high, abs=0.02)
    assert -1 <= low < spearman(ours, theirs) < high <= 1


@pytest.mark.parametrize("sign, rho", [(1, 1.0), (-1, -1.0)])
def test_the_interval_of_a_perfect_order_is_a_point(sign, rho):
    ours = np.arange(6.0)
    assert bootstrap(ours, sign * ours) == pytest.approx((rho, rho))


def test_both_orders_of_the_methods(four):
    (pair,) = make_report(TableOptions(folders=(four,), ranks="poster")).ranks
    ranks = {each.cell.row: (each.rank, each.published_rank) for each in pair.methods}
    assert ranks == {"SDKD": (4, 1), "DML": (1, 2), "KD": (2, 3), "FitNet": (3, 4)}
    assert pair.rho == pytest.approx(1 - 6 * (9 + 1 + 1 + 1) / 60)

    shown = table(four, ranks="poster")
    assert "| resnet56/resnet20 | SDKD | 4 | 1 | -3 | unknown |" in shown
    assert "4 methods (unknown epoch), Spearman's rho -0.20, 95 % interval " in shown


def test_equal_means_share_their_rank_though_their_last_bits_differ(four, make_run):
    for method, scores in (("AT", (70.0, 70.07, 70.2)), ("SP", (70.09, 70.09, 70.09))):
        for seed, score in enumerate(scores):
            make_run(method, seed, [score])
    (pair,) = make_report(TableOptions(folders=(four,), ranks="poster")).ranks
    means = {each.cell.row: each.cell.summary("last").mean for each in pair.methods}
    assert means["AT"] != means["SP"]
    assert {e.cell.row: e.rank for e in pair.methods if e.cell.row in means}["AT"] == 1.5


def test_images_and_schedule_of_another_size_are_ranked_all_the_same(four, make_run):
    report = make_report(TableOptions(folders=(four,), ranks="poster"))
    assert all(column.protocol["SOLVER.EPOCHS"] != 240 for column in report.comparison.columns)
    assert report.ranks


def test_the_student_alone_is_no_method_and_three_are_too_few(four, make_run):
    make_run("NONE", 0, [50.0])
    assert "5 methods" not in table(four, ranks="poster")
    for path in (four / "fake").glob("SDKD*"):
        path.rename(four.parent / "elsewhere")
    shown = table(four, ranks="poster")
    assert "no pair has 4 methods with a published number of one kind" in shown


def test_numbers_of_one_kind_are_ranked_among_themselves_by_our_same_epoch(make_run, tmp_path):
    methods = ("KD", "AT", "SP", "CC", "DKD", "PKT", "RKD", "NST")
    for place, method in enumerate(methods):
        make_run(method, 0, [80.0 - place, 50.0 + place])  # best falls, last rises
    kinds = ["best"] * 4 + ["unknown"] * 4
    rows = [
        Published("t", method, "resnet56", "resnet20", f"{70 + place}", statistic, None, "a paper")
        for place, (method, statistic) in enumerate(zip(methods, kinds, strict=True))
    ]
    comparison = make_report(TableOptions(folders=(tmp_path,))).comparison
    best, unknown = rank_columns(comparison, rows)
    assert (best.statistic, best.rho) == ("best", pytest.approx(-1))
    assert (unknown.statistic, unknown.rho) == ("unknown", pytest.approx(1))
    assert {each.number.method for each in best.methods} == {"KD", "AT", "SP", "CC"}

    # four of one kind, but from two sources that do not say which epoch: nothing to compare
    rows = [replace(row, source=f"paper {at % 2}") for at, row in enumerate(rows[4:])]
    assert rank_columns(comparison, rows) == []


def test_csv_holds_both_ranks_and_rho_where_they_are_asked_for(four):
    rows = csv.DictReader(io.StringIO(table(four, "csv", ranks="poster")))
    sdkd = {row["method"]: row for row in rows}["SDKD"]
    assert (sdkd["ranks"], sdkd["ranks_here"], sdkd["ranks_there"]) == ("poster", "4.0", "1.0")
    assert float(sdkd["ranks_rho"]) == pytest.approx(-0.2)
    assert float(sdkd["ranks_low"]) < -0.2 < float(sdkd["ranks_high"])
    assert "ranks" not in table(four, "csv").splitlines()[0]


def test_what_cannot_be_ranked_is_refused_in_one_line(four, capsys):
    with pytest.raises(UserError, match="'postr' in --ranks: did you mean 'poster'"):
        table(four, ranks="postr")
    with pytest.raises(UserError, match="--ranks poster orders by top1, .* not by top5"):
        table(four, ranks="poster", metric="top5")
    assert main(["table", "--published", "poster", "--ranks", "poster"]) == 2
    assert capsys.readouterr().err.startswith("error: --ranks needs runs")

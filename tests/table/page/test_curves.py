"""Learning curves and costs against values by hand."""

import itertools
import random

import pytest
from support.tables import report_of_runs

from sdkd_plugin.table.page import curves
from sdkd_plugin.table.page.cost import Point, cost_section, find_points, frontier
from sdkd_plugin.table.page.curves import Curve, curves_section, mean_curve


def cell_of(folder, row, **options):
    comparison = report_of_runs(folder, curves=True, **options).comparison
    return comparison.cells[row, 0]


def test_a_curve_is_mean_and_sample_deviation_over_seeds(make_run, tmp_path):
    for seed, values in enumerate(([50.0, 60.0], [53.0, 62.0], [56.0, 70.0])):
        make_run("KD", seed, values)
    # 60, 62, 70: mean 64, squares 16 + 4 + 36 = 56, over 2
    assert mean_curve(cell_of(tmp_path, "KD")) == Curve(
        [1.0, 2.0], [53.0, 64.0], [3.0, pytest.approx(28**0.5)], 3
    )


def test_one_seed_has_no_spread(make_run, tmp_path):
    make_run("KD", 0, [50.0, 60.0])
    assert mean_curve(cell_of(tmp_path, "KD")) == Curve([1.0, 2.0], [50.0, 60.0], None, 1)


def test_unfinished_runs_are_drawn_where_there_are_no_others_as_far_as_all_are(make_run, tmp_path):
    two = ["SOLVER.EPOCHS", "3"]
    make_run("KD", 0, [50.0, 60.0], two, finished=False)
    make_run("KD", 1, [52.0], two, finished=False)
    assert mean_curve(cell_of(tmp_path, "KD")) == Curve([1.0], [51.0], [pytest.approx(2**0.5)], 2)
    make_run("KD", 2, [50.0, 60.0, 61.0])
    assert mean_curve(cell_of(tmp_path, "KD")) == Curve(
        [1.0, 2.0, 3.0], [50.0, 60.0, 61.0], None, 1
    )


def test_a_long_curve_is_thinned_and_keeps_its_ends(make_run, tmp_path):
    make_run("KD", 0, [float(value) / 3 for value in range(240)])
    curve = mean_curve(cell_of(tmp_path, "KD"))
    assert len(curve.epochs) == curves.POINTS == len(set(curve.epochs))
    assert (curve.epochs[0], curve.epochs[-1]) == (1, 240)
    assert curve.means == [pytest.approx((epoch - 1) / 3) for epoch in curve.epochs]


def test_columns_beyond_the_limit_are_told(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "COLUMNS", 1)
    for epochs in (1, 2):
        make_run("KD", 0, [50.0] * epochs)
    section = curves_section(report_of_runs(tmp_path, curves=True).comparison)
    assert len(section.pictures) == 1
    assert "Pictures of the first 1 of 2 columns; give fewer folders" in section.notes[-1]


def better_than_none(points, lower):
    """The slow way: the points that no other beats in both."""
    sign = -1 if lower else 1

    def beats(a, b):
        ahead = (a.hours <= b.hours, sign * a.mean >= sign * b.mean)
        return all(ahead) and (a.hours, a.mean) != (b.hours, b.mean)

    return {p.row for p in points if not any(beats(other, p) for other in points)}


@pytest.mark.parametrize("lower", [False, True])
def test_the_frontier_is_what_no_other_beats(lower):
    grid = list(itertools.product(range(6), range(6)))
    for seed in range(50):
        places = random.Random(seed).sample(grid, 9)
        points = [Point(n, "x", float(h), float(m), None, 1) for n, (h, m) in enumerate(places)]
        assert {p.row for p in frontier(points, lower)} == better_than_none(points, lower)


def test_points_are_mean_hours_and_mean_score(make_run, tmp_path):
    make_run("KD", 0, [60.0], seconds=3600.0)
    make_run("KD", 1, [62.0], seconds=7200.0)
    comparison = report_of_runs(tmp_path).comparison
    (point,) = find_points(comparison, 0)
    assert point == Point(0, "KD", 1.5, 61.0, pytest.approx(2**0.5), 2)
    section = cost_section(comparison)
    assert section.title == "Accuracy against cost"
    assert "KD: 61.00 % (n = 2), 1.5 hours" in section.pictures[0].drawn

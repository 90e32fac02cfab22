"""Ranks with intervals, and every two methods paired."""

import itertools

import pytest
from support.tables import report_of_runs

from sdkd_plugin.table.page import pairs
from sdkd_plugin.table.page.pairs import pairs_section
from sdkd_plugin.table.page.ranks import ranks_section, spread_ranks
from sdkd_plugin.table.statistics import compare_paired, holm, rank_intervals


def test_methods_that_never_meet_have_no_spread_of_rank():
    assert rank_intervals([[1.0, 2.0], [5.0, 6.0], [3.0, 4.0]], False) == [(3, 3), (1, 1), (2, 2)]
    assert rank_intervals([[1.0, 2.0], [5.0, 6.0], [3.0, 4.0]], True) == [(1, 1), (3, 3), (2, 2)]


def test_methods_of_equal_scores_may_have_either_rank():
    assert rank_intervals([[1.0, 2.0], [1.0, 2.0]], False) == [(1, 2), (1, 2)]


def test_equal_means_share_the_better_rank():
    assert rank_intervals([[0.1 + 0.2] * 2, [0.3] * 2], False) == [(1, 1), (1, 1)]


def test_the_drawn_interval_is_that_of_all_drawings():
    scores = [[1.0, 2.0, 6.0], [3.0, 3.5], [2.0, 2.5]]
    ranks = [[] for _ in scores]
    drawings = [list(itertools.product(own, repeat=len(own))) for own in scores]
    for drawn in itertools.product(*drawings):  # each is as likely as any
        means = [sum(own) / len(own) for own in drawn]
        for place, mean in enumerate(means):
            ranks[place].append(1 + sum(other > mean for other in means))
    expected = []
    for own in map(sorted, ranks):
        expected.append((own[round(0.025 * (len(own) - 1))], own[round(0.975 * (len(own) - 1))]))
    assert rank_intervals(scores, False) == expected


def test_a_method_of_one_seed_is_left_out_of_the_intervals_and_told(make_run, tmp_path):
    for seed in (0, 1):
        make_run("NONE", seed, [60.0 + seed])
        make_run("KD", seed, [70.0 + seed])
    make_run("DKD", 0, [80.0])
    comparison = report_of_runs(tmp_path).comparison
    found = [
        (each.cell.row, each.rank, each.low, each.high) for each in spread_ranks(comparison, 0)
    ]
    assert found == [("KD", 1, 1, 1), ("student", 2, 2, 2)]
    (grid,) = ranks_section(comparison, []).grids
    assert grid.notes[-1] == "left out, since one seed tells nothing of the spread: DKD"


def test_without_two_seeds_there_is_one_line_instead(make_run, tmp_path):
    make_run("KD", 0, [70.0])
    section = ranks_section(report_of_runs(tmp_path).comparison, [])
    assert section.grids == [] and section.pictures == []
    assert section.notes[0].startswith("Intervals need two methods of two seeds")


@pytest.fixture
def three(make_run, tmp_path):
    scores = {"NONE": (60.0, 62.0, 61.0), "KD": (64.0, 63.0, 66.0), "DKD": (66.0, 64.0, 65.5)}
    for method, values in scores.items():
        for seed, value in enumerate(values):
            make_run(method, seed, [value])
    make_run("CRD", 0, [50.0])  # shares one seed with each
    return scores, report_of_runs(tmp_path).comparison


def test_every_pair_is_the_paired_test_with_holm_over_all(three):
    scores, comparison = three
    by_seed = {method: dict(enumerate(values)) for method, values in scores.items()}
    names = {"NONE": "student"}
    order = [("DKD", "KD"), ("DKD", "NONE"), ("KD", "NONE")]
    tests = [compare_paired(by_seed[a], by_seed[b]) for a, b in order]
    (grid,) = pairs_section(comparison, []).grids

    told = [(row[1].text, row[2].text, row[3].text) for row in grid.rows]
    assert told == [(names.get(a, a), names.get(b, b), "3") for a, b in order]
    assert [row[4].value for row in grid.rows] == [test.mean for test in tests]
    assert [row[8].value for row in grid.rows] == holm([test.p for test in tests])
    assert grid.head[4] == "mean difference" and grid.head[8] == "p (Holm)"


def test_too_many_pairs_are_told_and_not_tested(three, monkeypatch):
    _, comparison = three
    monkeypatch.setattr(pairs, "MOST", 5)  # four methods: six pairs
    section = pairs_section(comparison, [])
    assert section.grids == []
    assert section.notes == ["6 pairs of methods are too many to test; --versus METHOD tests one's"]

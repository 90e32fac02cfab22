import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from sdkd_plugin.table.statistics import Summary, compare_paired, holm, summarize


def test_summary_is_mean_and_sample_deviation():
    # deviations -1, 0, 1: sum of squares 2, over n - 1 = 2
    assert summarize([69.0, 70.0, 71.0]) == Summary(3, 70.0, 1.0)


def test_one_value_tells_no_spread():
    assert summarize([69.5]) == Summary(1, 69.5, None)


def test_paired_by_hand():
    paired = compare_paired({0: 71.0, 1: 72.0, 2: 73.0}, {0: 70.0, 1: 70.0, 2: 70.0})
    # differences 1, 2, 3: sd 1, t quantile of 2 degrees of freedom 4.302653
    # all of one sign: 2 of 8 patterns
    half = 4.302652729911275 / 3**0.5
    assert (paired.n, paired.mean, paired.p, paired.smallest_p) == (3, 2.0, 0.25, 0.25)
    assert (paired.low, paired.high) == (pytest.approx(2 - half), pytest.approx(2 + half))


def test_only_common_seeds_are_paired():
    paired = compare_paired({0: 71.0, 1: 72.0, 5: 99.0}, {0: 70.0, 1: 70.0, 6: 1.0})
    assert (paired.n, paired.mean) == (2, 1.5)
    assert compare_paired({0: 71.0}, {1: 70.0}) is None


def test_one_pair_has_no_interval_and_p_one():
    paired = compare_paired({0: 71.0}, {0: 70.0})
    assert (paired.mean, paired.low, paired.high) == (1.0, None, None)
    assert (paired.p, paired.smallest_p) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ((3, 1, -1), 0.75),  # sums of ±3±1±1: 5, 3, 3, 1 and their negatives; six of eight reach 3
        ((1, 1, -1), 1.0),  # sums 3, 1, 1, 1 and negatives: all reach 1
        ((0.3, -0.1, 0.2), 0.5),  # sums 0.6, 0.4, 0.2, 0.0 and negatives: four of eight reach 0.4
        ((0, 0), 1.0),
        ((1, 1, 1, 1, 1), 2 / 32),
    ],
)
def test_sign_flips_by_hand(differences, p):
    # so that the differences carry rounding errors
    theirs = dict(enumerate([70.1, 69.7, 71.3, 70.9, 70.0]))
    ours = {seed: theirs[seed] + difference for seed, difference in enumerate(differences)}
    assert compare_paired(ours, theirs).p == p


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_the_unit_of_a_metric_does_not_change_p(unit):
    # of 16 sums 1 is 0.4, 4 are 0.2, 6 are 0.0, and their negatives: 10 reach 0.2
    values = [70.1, 69.7, 71.3, 70.9]
    changes = [0.1, 0.1, 0.1, -0.1]
    theirs = {seed: unit * value for seed, value in enumerate(values)}
    pairs = zip(values, changes, strict=True)
    ours = {seed: unit * (value + change) for seed, (value, change) in enumerate(pairs)}
    assert compare_paired(ours, theirs).p == 0.625


@pytest.mark.parametrize("n", [2, 3, 6, 9])
def test_sign_flips_equal_scipys_enumeration(n):
    drawn = np.random.default_rng(n)
    for differences in (drawn.normal(0.4, 1, n), drawn.integers(-3, 4, n) / 10):
        ours = dict(enumerate(differences.tolist()))
        scipys = stats.permutation_test(
            (differences,),
            lambda sample, axis: np.round(sample.sum(axis=axis), 9),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        )
        assert compare_paired(ours, dict.fromkeys(ours, 0.0)).p == pytest.approx(
            scipys.pvalue, abs=1e-12
        )


def test_many_seeds_stay_exact():
    ours = {seed: 1 + seed / 100 for seed in range(30)}
    assert compare_paired(ours, dict.fromkeys(ours, 0.0)).p == pytest.approx(2 / 2**30, rel=1e-12)


def test_beyond_thirty_seeds_patterns_are_drawn_and_said_so():
    drawn = np.random.default_rng(0).normal(0.3, 1, 48)
    ours = dict(enumerate(drawn.tolist()))
    paired = compare_paired(ours, dict.fromkeys(ours, 0.0))
    # by the normal approximation, whose sd is the root of the sum of squares
    z = abs(drawn.sum()) / np.sqrt((drawn**2).sum())
    assert paired.p == pytest.approx(2 * stats.norm.sf(z), abs=0.003)
    assert paired == compare_paired(ours, dict.fromkeys(ours, 0.0))
    assert paired.sampled and paired.patterns == "9,999 drawn of 2^48"
    assert paired.smallest_p == 1e-4
    few = compare_paired({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.0})
    assert not few.sampled and few.patterns == "all 4"


def test_equal_seeds_beyond_thirty_differ_by_nothing():
    scores = {seed: 70.1 + seed / 10 for seed in range(40)}
    assert compare_paired(scores, scores).p == 1.0
    better = {seed: value + 0.1 for seed, value in scores.items()}
    assert compare_paired(better, scores).p == 1e-4  # of 2^40 patterns two reach the sum


def test_a_thousand_seeds_take_a_second_and_little_memory():
    ours = {seed: seed % 7 / 10 for seed in range(1000)}
    tracemalloc.start()
    began = time.process_time()
    compare_paired(ours, dict.fromkeys(ours, 0.3))
    seconds = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 10 and peak < 150 * 2**20


def test_holm_by_hand():
    # ascending 0.01 * 3, 0.03 * 2, 0.04 * 1 raised to 0.06; in the order given
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []

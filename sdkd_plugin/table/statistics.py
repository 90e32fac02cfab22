"""Spread and paired comparison over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np

CONFIDENCE = 0.95
# Of the largest value: accuracies are counts over images, so equal sums are common and must not
# differ by a last bit. A share, so that a metric's unit does not matter.
ROUNDING = 1e-11
EXACT = 30  # pairs up to which all sign patterns are counted, 2^15 numbers at a time
DRAWN = 9_999  # patterns beyond; a p of 0.05 is then known to 0.004, two standard errors
DRAWN_SEED = 0
BATCH = 2**20  # signs drawn at once: 16 MB


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1 in the denominator); sd is None where n = 1 tells
    of no spread.
    """

    n: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Paired:
    """The mean of n paired differences and what can be said about it.

    Args:
        low, high: 95 % interval of Student's t; None for n = 1.
        p: two-sided sign-flip p-value.
        smallest_p: the smallest that can come out whatever the numbers are: 2 / 2^n of all
            patterns, 1 / (DRAWN + 1) of drawn ones.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float
    smallest_p: float

    @property
    def sampled(self) -> bool:
        """Whether p comes of drawn sign patterns instead of all."""
        return self.n > EXACT

    @property
    def turned(self) -> "Paired":
        """Of theirs - ours; the sign flips are the same."""
        if self.low is None or self.high is None:
            return replace(self, mean=-self.mean)
        return replace(self, mean=-self.mean, low=-self.high, high=-self.low)

    @property
    def patterns(self) -> str:
        """Which sign patterns p is counted over, in words."""
        return f"{DRAWN:,} drawn of 2^{self.n}" if self.sampled else f"all {2**self.n:,}"


def summarize(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation and number of `values`, of which there is at least one."""
    return Summary(len(values), fmean(values), stdev(values) if len(values) > 1 else None)


def compare_paired(ours: dict[int, float], theirs: dict[int, float]) -> Paired | None:
    """Compares two methods over the seeds both have; None if they share no seed.

    The interval is mean ± t sd / sqrt(n) and assumes normal differences. The p-value assumes only
    that under the null hypothesis each difference is as likely to have the other sign: it is the
    share of all 2^n sign patterns whose mean is at least as far from zero. Beyond EXACT pairs it is
    that of DRAWN patterns and the one that was seen, drawn with a fixed seed.

    Args:
        ours, theirs: seed to a metric's value; the difference is ours - theirs.
    Source: Fisher, The Design of Experiments, 1935, section 21 (the sign-flip test).
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    rounding = ROUNDING * max(abs(scores[seed]) for scores in (ours, theirs) for seed in seeds)

    n = len(seeds)
    low, high = _t_interval(differences) if n > 1 else (None, None)
    exact = n <= EXACT
    p = (_sign_flip_p if exact else _drawn_p)(differences, rounding)
    smallest = 2 / 2**n if exact else 1 / (DRAWN + 1)
    return Paired(n, float(differences.mean()), low, high, p, smallest)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given: p_(i) becomes max over j <= i of min(1, (m -
    j + 1) p_(j)).

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of
    Statistics, 1979.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, position in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return adjusted


def rank_intervals(
    scores: Sequence[Sequence[float]], lower_is_better: bool
) -> list[tuple[int, int]]:
    """For each method the percentile interval of its rank by mean score when its seeds are drawn
    with replacement, DRAWN times with a fixed seed, each method's on their own; equal means share
    the better rank.

    Args:
        scores: by method, its seeds' values.
    Returns:
        (low, high) for each, from 1.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    from scipy.stats import rankdata  # takes a second to import

    generator = np.random.Generator(np.random.PCG64(DRAWN_SEED))
    means = np.empty((DRAWN, len(scores)))
    for method, own in enumerate(scores):
        drawn = generator.integers(len(own), size=(DRAWN, len(own)))
        means[:, method] = np.array(own)[drawn].mean(-1).round(9)  # equal up to the last bit
    ranks = rankdata(means if lower_is_better else -means, method="min", axis=-1)

    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(ranks, ends, axis=0, method="nearest")
    return [(int(a), int(b)) for a, b in zip(low, high, strict=True)]


def _t_interval(differences: np.ndarray) -> tuple[float, float]:
    from scipy.special import stdtrit  # scipy.stats takes a second longer to import

    n = len(differences)
    mean = differences.mean()
    half = stdtrit(n - 1, (1 + CONFIDENCE) / 2) * differences.std(ddof=1) / np.sqrt(n)
    return float(mean - half), float(mean + half)


def _sign_flip_p(differences: np.ndarray, rounding: float) -> float:
    """Counts the sign patterns of all n differences through those of each half, so 2^(n/2) numbers
    are held, not 2^n, which scipy would go through one by one.
    """
    observed = abs(differences.sum())
    middle = len(differences) // 2
    left = _signed_sums(differences[:middle])
    right = np.sort(_signed_sums(differences[middle:]))
    # for each left: how many rights reach observed
    as_far = len(right) - np.searchsorted(right, observed - left - rounding)
    return min(1.0, 2 * float(as_far.sum()) / 2 ** len(differences))


def _drawn_p(differences: np.ndarray, rounding: float) -> float:
    from scipy.stats import permutation_test

    observed = abs(differences.sum()) - rounding

    def as_far(signed: np.ndarray, axis: int) -> np.ndarray:
        return (abs(signed.sum(axis=axis)) >= observed).astype(float)

    test = permutation_test(
        (differences,),
        as_far,
        permutation_type="samples",
        vectorized=True,
        n_resamples=DRAWN,
        batch=max(1, BATCH // len(differences)),
        alternative="greater",
        random_state=DRAWN_SEED,
    )
    return float(test.pvalue)


def _signed_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums

"""Spread and paired comparison over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

CONFIDENCE = 0.95
# Of the largest value: accuracies are counts over images, so equal sums are common and must not
# differ by a last bit. A share, so that a metric's unit does not matter.
ROUNDING = 1e-11


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
        smallest_p: 2 / 2^n, the smallest that n pairs can give whatever the numbers are.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float
    smallest_p: float


def summarize(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation and number of `values`, of which there is at least one."""
    return Summary(len(values), fmean(values), stdev(values) if len(values) > 1 else None)


def compare_paired(ours: dict[int, float], theirs: dict[int, float]) -> Paired | None:
    """Compares two methods over the seeds both have; None if they share no seed.

    The interval is mean ± t sd / sqrt(n) and assumes normal differences. The p-value assumes only
    that under the null hypothesis each difference is as likely to have the other sign: it is the
    share of all 2^n sign patterns whose mean is at least as far from zero.

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
    p = _sign_flip_p(differences, rounding)
    return Paired(n, float(differences.mean()), low, high, p, smallest_p=2 / 2**n)


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


def _t_interval(differences: np.ndarray) -> tuple[float, float]:
    from scipy import stats  # takes a second to import and is needed only for --versus

    n = len(differences)
    mean = differences.mean()
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n)
    return float(mean - half), float(mean + half)


def _sign_flip_p(differences: np.ndarray, rounding: float) -> float:
    """Counts the sign patterns of all n differences through those of each half, so 2^(n/2) numbers
    are held, not 2^n.
    """
    observed = abs(differences.sum())
    middle = len(differences) // 2
    left = _signed_sums(differences[:middle])
    right = np.sort(_signed_sums(differences[middle:]))
    # for each left: how many rights reach observed
    as_far = len(right) - np.searchsorted(right, observed - left - rounding)
    return min(1.0, 2 * float(as_far.sum()) / 2 ** len(differences))


def _signed_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums

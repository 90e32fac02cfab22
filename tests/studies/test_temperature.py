"""Temperatures of equal cross entropy, against curves that can be computed by hand."""

import math

import numpy as np
import pytest

from sdkd_plugin.errors import UserError
from sdkd_plugin.studies.temperature import (
    BEST,
    LARGEST,
    SHARPER,
    SOFTER,
    CrossEntropyCurve,
    Root,
    check_logits,
    choose,
)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# Two images of two classes with a gap of 1: one right, one wrong. With beta = 1 / tau the loss is
# (softplus(-beta) + softplus(beta)) / 2 = softplus(beta) - beta / 2, smallest at beta 0.
EVEN = CrossEntropyCurve(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
# Three right, one wrong: the slope is sigmoid(beta) - 3 / 4, zero at beta = log 3, where the loss
# is the entropy of (3 / 4, 1 / 4).
MOST = CrossEntropyCurve(np.array([[1.0, 0.0]] * 4), np.array([0, 0, 0, 1]))
ENTROPY = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
# All right.
ALL = CrossEntropyCurve(np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([0, 1]))


def test_the_loss_is_the_one_by_hand():
    assert MOST.at(1.0) == pytest.approx((3 * softplus(-1) + softplus(1)) / 4, rel=1e-14)
    assert MOST.at(0.5) == pytest.approx((3 * softplus(-2) + softplus(2)) / 4, rel=1e-14)
    assert MOST.loss(0.0) == pytest.approx(math.log(2), rel=1e-15)
    assert EVEN.at(1.0) == pytest.approx(softplus(1) - 0.5, rel=1e-14)


def test_the_slope_is_that_of_the_loss_and_zero_where_it_is_by_hand():
    assert MOST.slope(0.7) == pytest.approx(1 / (1 + math.exp(-0.7)) - 0.75, rel=1e-14)
    numeric = (MOST.loss(0.7 + 1e-6) - MOST.loss(0.7 - 1e-6)) / 2e-6
    assert MOST.slope(0.7) == pytest.approx(numeric, rel=1e-6)
    assert MOST.minimum() == pytest.approx(math.log(3), rel=1e-11)
    assert MOST.loss(MOST.minimum()) == pytest.approx(ENTROPY, rel=1e-14)


def test_two_roots_one_on_each_side():
    beta = 0.4
    wanted = (3 * softplus(-beta) + softplus(beta)) / 4
    soft, sharp = MOST.reach(wanted)
    assert soft.tau == pytest.approx(2.5, rel=1e-9) and soft.branch == SOFTER
    assert sharp.branch == SHARPER and sharp.tau < 1 / math.log(3) < soft.tau
    assert MOST.at(sharp.tau) == pytest.approx(wanted, rel=1e-10)


def test_one_root_where_the_loss_only_falls_or_is_above_that_of_a_guess():
    (root,) = ALL.reach(softplus(-0.6))  # beta 0.3
    assert root.tau == pytest.approx(1 / 0.3, rel=1e-9) and root.branch == SOFTER
    assert ALL.minimum() == LARGEST
    wanted = (3 * softplus(-5) + softplus(5)) / 4  # 1.26, above log 2
    (root,) = MOST.reach(wanted)
    assert root.tau == pytest.approx(0.2, rel=1e-9) and root.branch == SHARPER
    (root,) = EVEN.reach(softplus(2) - 1)  # only rises
    assert root.tau == pytest.approx(0.5, rel=1e-9) and root.branch == SHARPER


def test_no_root_below_the_smallest_loss():
    assert MOST.reach(ENTROPY - 1e-9) == []
    assert len(MOST.reach(ENTROPY + 1e-9)) == 2
    assert EVEN.reach(math.log(2) - 1e-9) == []
    assert EVEN.minimum() == 0.0 and EVEN.reach(math.log(2)) == []  # tau would be infinite


def test_a_root_at_the_minimum_is_one():
    (root,) = MOST.reach(MOST.loss(MOST.minimum()))
    assert root.branch == BEST and root.tau == pytest.approx(1 / math.log(3), rel=1e-9)


def test_the_side_and_the_choice():
    assert MOST.side(0.5) == SHARPER and MOST.side(2.0) == SOFTER
    soft, sharp = Root(3.0, SOFTER), Root(0.5, SHARPER)
    assert choose([soft, sharp], SHARPER) is sharp and choose([soft, sharp], SOFTER) is soft
    assert choose([soft], SHARPER) is soft and choose([], SOFTER) is None


def test_logits_of_any_size_are_solved():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(200, 10)), rng.integers(10, size=200)
    logits[np.arange(200), target] += 1.5
    for scale in (1e-6, 1.0, 1e6):
        curve = CrossEntropyCurve(scale * logits, target)
        wanted = CrossEntropyCurve(logits, target).at(1.3)
        assert any(root.tau == pytest.approx(1.3 * scale, rel=1e-6) for root in curve.reach(wanted))


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match="teacher vgg13 has logits that are NaN or infinite"):
        check_logits(np.array([[1.0, np.nan]]), "vgg13")
    check_logits(np.array([[1.0, 2.0]]), "vgg13")

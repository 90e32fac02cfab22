"""Losses are watched on the device: nothing waits for it between two looks, and nothing is lost."""

import pytest
import torch

from sdkd_plugin.engine import finite
from sdkd_plugin.engine.finite import FiniteWatch
from sdkd_plugin.errors import UserError

CPU = torch.device("cpu")
GOOD = {"loss_ce": torch.tensor(1.0), "loss_kd": torch.tensor(2.0)}
BAD = {"loss_ce": torch.tensor(1.0), "loss_kd": torch.tensor(float("inf"))}
NO_TERMS: dict[str, torch.Tensor] = {}


@pytest.fixture
def rarely(monkeypatch):
    """A watch that looks every fifth step, as it does every fiftieth on a GPU."""
    monkeypatch.setattr(finite, "EVERY_ON_CPU", 5)
    return lambda epoch: FiniteWatch(CPU, epoch)


def test_the_first_bad_step_is_named_at_the_next_look(rarely):
    watch = rarely(epoch=3)
    for step in range(1, 5):
        watch.note(step, GOOD if step < 2 else BAD, {"cosine": torch.tensor(float(step))})
    with pytest.raises(UserError, match=r"epoch 3, step 2: loss_kd = inf; lower SOLVER\.LR"):
        watch.note(5, GOOD, {"cosine": torch.tensor(5.0)})


def test_the_end_of_an_epoch_looks_at_the_rest(rarely):
    watch = rarely(epoch=1)
    watch.note(6, BAD, NO_TERMS)
    with pytest.raises(UserError, match="epoch 1, step 6: loss_kd = inf"):
        watch.look()


def test_on_the_cpu_a_bad_step_is_refused_at_once():
    watch = FiniteWatch(CPU, epoch=1)
    watch.note(1, GOOD, NO_TERMS)
    with pytest.raises(UserError, match="step 2: loss_kd = inf"):
        watch.note(2, BAD, NO_TERMS)


def test_terms_may_change_their_names(rarely):
    watch = rarely(epoch=1)
    watch.note(1, GOOD, NO_TERMS)
    watch.note(2, {"loss_ce": torch.tensor(float("nan"))}, NO_TERMS)
    with pytest.raises(UserError, match="step 2: loss_ce = nan"):
        watch.note(3, GOOD, NO_TERMS)


def test_finite_terms_with_an_infinite_sum_are_told():
    large = torch.tensor(3e38)
    with pytest.raises(UserError, match="step 1: the sum of its terms; lower"):
        FiniteWatch(CPU, epoch=1).note(1, {"loss_ce": large, "loss_kd": large}, NO_TERMS)


def test_a_term_that_is_only_shown_stops_nothing():
    watch = FiniteWatch(CPU, epoch=1)
    watch.note(1, GOOD, {"cosine": torch.tensor(float("nan"))})
    watch.look()

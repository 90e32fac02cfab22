"""Losses are watched on the device: nothing waits for it between two looks, and nothing is lost."""

import pytest
import torch

from sdkd_plugin.engine import finite
from sdkd_plugin.engine.finite import FiniteWatch
from sdkd_plugin.errors import UserError

CPU = torch.device("cpu")
GOOD = {"loss_ce": torch.tensor(1.0), "loss_kd": torch.tensor(2.0)}
BAD = {"loss_ce": torch.tensor(1.0), "loss_kd": torch.tensor(float("inf"))}


def note(
    watch: FiniteWatch,
    step: int,
    losses: dict[str, torch.Tensor],
    shown: dict[str, torch.Tensor] | None = None,
) -> None:
    """A step's losses, and terms that are only shown, as the loop tells them."""
    watch.note(step, torch.stack(list(losses.values())).sum(), {**losses, **(shown or {})})


@pytest.fixture
def rarely(monkeypatch):
    """A watch that looks every fifth step, as it does every fiftieth on a GPU."""
    monkeypatch.setattr(finite, "EVERY_ON_CPU", 5)
    return lambda epoch: FiniteWatch(CPU, epoch)


def test_the_first_bad_step_is_named_at_the_next_look(rarely):
    watch = rarely(epoch=3)
    for step in range(1, 5):
        note(watch, step, GOOD if step < 2 else BAD)
    with pytest.raises(UserError, match=r"epoch 3, step 2: loss_kd = inf; lower SOLVER\.LR"):
        note(watch, 5, GOOD)


def test_the_end_of_an_epoch_looks_at_the_rest(rarely):
    watch = rarely(epoch=1)
    note(watch, 6, BAD)
    with pytest.raises(UserError, match="epoch 1, step 6: loss_kd = inf"):
        watch.look()


def test_on_the_cpu_a_bad_step_is_refused_at_once():
    watch = FiniteWatch(CPU, epoch=1)
    note(watch, 1, GOOD)
    with pytest.raises(UserError, match="step 2: loss_kd = inf"):
        note(watch, 2, BAD)


def test_terms_may_change_their_names(rarely):
    watch = rarely(epoch=1)
    note(watch, 1, GOOD)
    note(watch, 2, {"loss_ce": torch.tensor(float("nan"))})
    with pytest.raises(UserError, match="step 2: loss_ce = nan"):
        note(watch, 3, GOOD)


def test_finite_terms_with_an_infinite_sum_are_told():
    large = torch.tensor(3e38)
    with pytest.raises(UserError, match="step 1: the sum of its terms; lower"):
        note(FiniteWatch(CPU, epoch=1), 1, {"loss_ce": large, "loss_kd": large})


def test_a_term_that_is_only_shown_stops_nothing():
    watch = FiniteWatch(CPU, epoch=1)
    shown = {"cosine": torch.tensor(float("nan"))}
    note(watch, 1, GOOD, shown)
    watch.look()
    # it was looked at: with a loss that does stop, it is named beside it
    with pytest.raises(UserError, match="step 2: loss_kd = inf, cosine = nan; lower"):
        note(watch, 2, BAD, shown)

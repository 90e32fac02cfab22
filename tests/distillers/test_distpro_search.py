"""DistPro-style's search: the meta gradient against brute force, recording, a fresh start."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.distpro import TRAIN, batch, build, double, sgd
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.distillers import distpro
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.distillers.distpro import (
    virtual_step,
    without_trace,
)
from sdkd_plugin.models import build_model


def test_the_virtual_step_is_the_one_sgd_takes():
    distiller = build().double()
    optimizer, data = sgd(distiller), double(batch(0))
    for _ in range(2):  # the second time with momentum
        theta = dict(distiller.student.named_parameters())
        loss = sum(distiller(**data)[1].values())
        stepped = virtual_step(
            optimizer, theta, torch.autograd.grad(loss, theta.values(), retain_graph=True)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, p in distiller.student.named_parameters():
            torch.testing.assert_close(stepped[name], p, rtol=1e-12, atol=1e-14)


def test_the_meta_gradient_is_the_effect_of_alpha_on_the_held_out_loss(monkeypatch):
    """Brute force: move alpha, really take the step, measure the held-out cross entropy."""
    # else the ReLUs that 0.01 crosses make a few percent
    monkeypatch.setattr(distpro, "REACH", 1e-5)
    distiller = build("DISTPRO.SEARCH_NORM", "biased").double()
    data, held = double(batch(0)), double(batch(1))
    warm = sgd(distiller)
    sum(distiller(**data)[1].values()).backward()
    warm.step()  # so that there is momentum
    distiller.alpha.copy_(formula((10,), "alpha"))

    def held_loss(alpha: Tensor) -> float:
        trial = copy.deepcopy(distiller)
        optimizer = sgd(trial)
        optimizer.load_state_dict(copy.deepcopy(warm.state_dict()))
        trial.alpha.copy_(alpha)
        optimizer.zero_grad()
        sum(trial(**data)[1].values()).backward()
        optimizer.step()
        return F.cross_entropy(trial.student(held["image"])[0], held["target"]).item()

    held_out = (held["image"], held["target"])
    gradient = distiller.meta_gradient(warm, data["image"], data["target"], held_out)
    step = 1e-3
    for k in (0, 4, 9):
        shift = F.one_hot(torch.tensor(k), 10).double() * step
        slope = (held_loss(distiller.alpha + shift) - held_loss(distiller.alpha - shift)) / (
            2 * step
        )
        assert gradient[k].item() == pytest.approx(slope, rel=1e-3)


def test_a_search_step_moves_alpha_and_nothing_else():
    distiller = build()
    optimizer, held = sgd(distiller), batch(1)
    sum(distiller(**batch(0))[1].values()).backward()
    optimizer.step()
    optimizer.zero_grad()
    before = copy.deepcopy(distiller.state_dict())
    momenta = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    validation = (held["image"], held["target"])
    distiller.before_step(optimizer, **batch(2), epoch=2, validation=validation)
    after = distiller.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    # no running statistic
    assert changed == {"alpha", "alpha_mean", "alpha_square", "alpha_steps", "process"}
    assert all(
        torch.equal(m, s["momentum_buffer"])
        for m, s in zip(momenta, optimizer.state.values(), strict=True)
    )
    assert all(p.grad is None for p in distiller.parameters())
    # Adam's first step
    assert (distiller.alpha - 1).abs().max().item() == pytest.approx(0.1, rel=1e-3)
    assert (
        torch.equal(distiller.process[2:], distiller.alpha.expand(2, 10))
        and (distiller.process[:2] == 1).all()
    )


def test_nothing_is_searched_in_the_training_phase():
    distiller = build(phase=TRAIN)
    before = copy.deepcopy(distiller.state_dict())
    distiller.before_step(sgd(distiller), **batch(0), epoch=1)
    assert all(torch.equal(value, before[name]) for name, value in distiller.state_dict().items())


def test_running_without_a_trace():
    net = build_model("resnet8", 10).train()
    before = copy.deepcopy(net.state_dict())
    weights = {name: p + 1 for name, p in net.named_parameters()}
    logits = without_trace(net, weights, batch(0)["image"])[0]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    other = copy.deepcopy(net)
    other.load_state_dict({**before, **weights})
    torch.testing.assert_close(logits, other(batch(0)["image"])[0])


def test_training_begins_again_from_the_initial_weights():
    distiller = build()
    initial = copy.deepcopy(distiller.state_dict())
    optimizer = sgd(distiller)
    sum(distiller(**batch(0))[1].values()).backward()
    optimizer.step()
    distiller.process.fill_(3)
    distiller.begin_phase(TRAIN)
    restored = distiller.state_dict()
    assert all(
        torch.equal(restored[name], value) for name, value in initial.items() if name != "process"
    )
    assert (restored["process"] == 3).all()


def test_phases_follow_the_schedule_and_the_search_can_be_left_out():
    words = "DISTILLER.TYPE DISTPRO SOLVER.EPOCHS 30 SOLVER.SCHEDULE_EPOCHS 240".split()
    cfg = scaled_config(load_config(None, words))
    assert build().phases(cfg) == [
        Phase("search", 5, scores=False, validation=0.2),
        Phase("train", 30),
    ]
    cfg = scaled_config(load_config(None, [*words, "DISTPRO.SEARCH_EPOCHS", "0"]))
    assert build().phases(cfg) == [Phase("train", 30)]
    assert build("DISTPRO.SEARCH_EPOCHS", "0").process.tolist() == [[1.0] * 10]

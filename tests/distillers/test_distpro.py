"""DistPro-style: pathways, weights, the meta gradient against brute force.

Recording and replay, a fresh start.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula
from torch import Tensor, nn

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.distillers import distpro
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.distillers.distpro import (
    DistPro,
    Pathway,
    Pathways,
    adam_step,
    pathway_weights,
    replayed,
    virtual_step,
    without_trace,
)
from sdkd_plugin.distillers.reviewkd import hcl
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

N = 4
TARGET = torch.arange(N)
SEARCH, TRAIN = Phase("search", 3, scores=False, validation=0.2), Phase("train", 5)


def build(*words: str, pair: str = "resnet8/resnet8", phase: Phase | None = SEARCH) -> DistPro:
    teacher, student = pair.split("/")
    with torch_seeded(0, "nets"):
        cfg = scaled_config(
            load_config(None, ["DISTILLER.TYPE", "DISTPRO", "DISTPRO.SEARCH_EPOCHS", "3", *words])
        )
        distiller = DistPro(build_model(student, 10), build_model(teacher, 10), cfg)
    distiller.phase = phase
    return distiller.train()


def batch(number: int, size: int = 8) -> dict[str, Tensor]:
    return {
        "image": formula((N, 3, size, size), f"image{number}").float(),
        "target": (TARGET + number) % 10,
    }


def sgd(distiller: DistPro, lr: float = 0.05) -> torch.optim.SGD:
    return torch.optim.SGD(
        distiller.get_learnable_parameters(), lr=lr, momentum=0.9, weight_decay=5e-4
    )


def double(data: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**data, "image": data["image"].double()}


# --- weights and replay


def test_weights_hand_computed():
    alpha = torch.tensor([1.0, 1.0, 1.0])
    torch.testing.assert_close(pathway_weights(alpha, "softmax", 2.0), torch.full((3,), 1 / 3))
    torch.testing.assert_close(pathway_weights(alpha, "biased", 2.0), torch.full((3,), 1 / 4))
    torch.testing.assert_close(pathway_weights(alpha, "scaled", 2.0), torch.full((3,), 3 * 2 / 4))


def test_shifting_alpha_changes_nothing_but_the_biased_weights():
    alpha = formula((5,), "alpha").requires_grad_()
    assert torch.allclose(
        pathway_weights(alpha + 3, "softmax", 1.0), pathway_weights(alpha, "softmax", 1.0)
    )
    assert (pathway_weights(alpha + 3, "biased", 1.0) > pathway_weights(alpha, "biased", 1.0)).all()
    (gradient,) = torch.autograd.grad(pathway_weights(alpha, "softmax", 1.0).sum(), alpha)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("norm", ["softmax", "biased", "scaled"])
def test_gradient_is_that_of_finite_differences(norm):
    assert torch.autograd.gradcheck(
        lambda a: pathway_weights(a, norm, 0.7), formula((4,), "alpha").requires_grad_()
    )


def test_the_replay_is_linear_between_records():
    process = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 2.0]])
    wanted = {0.0: (0, 0), 0.25: (0.5, 1), 0.5: (1, 2), 0.75: (2, 2), 1.0: (3, 2)}
    assert {progress: tuple(replayed(process, progress).tolist()) for progress in wanted} == wanted
    assert replayed(process[:1], 0.7).tolist() == [0, 0]


def test_adam_equals_torchs():
    value, state = (
        formula((4,), "v").clone(),
        [torch.zeros(4).double(), torch.zeros(4).double(), torch.tensor(0)],
    )
    other = value.clone().requires_grad_()
    adam = torch.optim.Adam([other], lr=0.1, betas=(0.5, 0.999))
    for step in range(4):
        other.grad = formula((4,), f"g{step}")
        adam.step()
        adam_step(value, other.grad, *state, lr=0.1)
        torch.testing.assert_close(value, other.detach(), rtol=1e-12, atol=1e-14)


# --- pathways


def slow_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), unbiased=False, keepdim=True) + norm.eps
    ).sqrt()


def slow_pathway(path: Pathway, x: Tensor, size: int) -> Tensor:
    conv1, norm1, _, gate, conv2, norm2, _ = path.body
    x = slow_norm(F.conv2d(x, conv1.weight, padding=1), norm1).clamp(min=0)
    x = x * torch.einsum("nchw,c->nhw", x, gate.conv.weight[0, :, 0, 0])[:, None]
    x = slow_norm(F.conv2d(x, conv2.weight, padding=1), norm2).clamp(min=0)
    rows = torch.arange(size) * x.shape[2] // size
    return slow_norm(
        F.conv2d(x[:, :, rows][:, :, :, rows], path.leave[0].weight, padding=1), path.leave[1]
    )


@pytest.mark.parametrize("pair", ["resnet8x4/resnet8", "resnet8/MobileNetV2", "ResNet18/wrn_16_1"])
def test_pathways_are_those_to_teacher_maps_that_are_no_deeper(pair):
    distiller = build(pair=pair)
    own, theirs = (
        len(net(torch.zeros(2, 3, 16, 16))[1]["feats"])
        for net in (distiller.student, distiller.teacher)
    )
    assert distiller.pathways.pairs == [(t, s) for t in range(theirs) for s in range(own) if s >= t]
    assert pair != "resnet8x4/resnet8" or len(distiller.pathways.pairs) == 10


@pytest.mark.parametrize("phase", [SEARCH, TRAIN, None])
def test_one_step_equals_the_definition(phase):
    words = ("DISTPRO.CE_WEIGHT", "0.5", "DISTPRO.KD_WEIGHT", "0.3")
    distiller = build(*words, pair="resnet8x4/resnet8", phase=phase).double()
    distiller.alpha.copy_(formula((10,), "alpha"))
    distiller.process.copy_(formula((4, 10), "process"))
    data = double(batch(0))
    z, feats = distiller.student(data["image"])
    goals = distiller.teacher(data["image"])[1]["preact_feats"]
    losses = []
    for (t, s), path in zip(distiller.pathways.pairs, distiller.pathways.paths, strict=True):
        losses.append(
            hcl(slow_pathway(path, feats["preact_feats"][s], goals[t].shape[2]), goals[t])
        )
    if phase is SEARCH:
        weights = distiller.alpha.exp() / distiller.alpha.exp().sum()
    else:  # progress 0.5 of 3 epochs: half way between the records after epochs 1 and 2
        alpha = (distiller.process[1] + distiller.process[2]) / 2
        weights = 10 * 0.3 * alpha.exp() / (alpha.exp().sum() + torch.e)
    expected = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    logits, got = distiller(**data, epoch=1, progress=0.5)
    assert got["loss_kd"].item() == pytest.approx(expected.item(), rel=1e-9)
    assert got["loss_ce"].item() == pytest.approx(
        0.5 * F.cross_entropy(z, data["target"]).item(), rel=1e-12
    )
    assert [term.item() for term in distiller.terms.values()] == pytest.approx(
        weights.tolist(), rel=1e-12
    )


# --- the search


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


def test_large_logits_and_constant_images_stay_finite():
    distiller = build()
    with torch.no_grad():
        distiller.student.fc.bias[0] = 500
    constant = {"image": torch.zeros(N, 3, 8, 8), "target": torch.zeros(N, dtype=torch.long)}
    validation = (constant["image"], constant["target"])  # the held-out loss and its gradient are 0
    distiller.before_step(sgd(distiller), **constant, epoch=1, validation=validation)
    sum(distiller(**constant)[1].values()).backward()
    assert torch.isfinite(distiller.alpha).all()
    assert all(torch.isfinite(p.grad).all() for p in distiller.get_learnable_parameters())


def test_the_pathways_of_the_published_pair_have_this_many_parameters():
    widths, expected = [16, 16, 32, 64], 0
    for t in range(4):
        for s in range(t, 4):
            mid = min(widths[t], widths[s])
            expected += 9 * mid * (widths[s] + mid + widths[t]) + mid + 2 * (2 * mid + widths[t])
    assert sum(p.numel() for p in Pathways(widths, widths).parameters()) == expected == 243_600


@pytest.mark.parametrize(
    "key, value", [("SEARCH_EPOCHS", "-1"), ("VAL_RATIO", "0.0"), ("VAL_RATIO", "1.0")]
)
def test_meaningless_settings_are_refused(key, value):
    with pytest.raises(UserError, match=f"DISTPRO.{key} is {value}; allowed"):
        build(f"DISTPRO.{key}", value)


@pytest.mark.parametrize("key", ["SEARCH_NORM", "TRAIN_NORM"])
def test_an_unknown_normalisation_is_refused(key):
    with pytest.raises(
        UserError, match=f"unknown normalisation 'softmx' in DISTPRO.{key}: did you mean 'softmax'"
    ):
        build(f"DISTPRO.{key}", "softmx")

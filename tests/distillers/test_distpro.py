"""DistPro-style: pathways, weights, the meta gradient against brute force.

Recording and replay, a fresh start.
"""

import pytest
import torch
import torch.nn.functional as F
from support.distpro import SEARCH, TRAIN, N, batch, build, double, sgd
from support.oracles import formula
from torch import Tensor, nn

from sdkd_plugin.distillers.distpro import (
    Pathway,
    Pathways,
    adam_step,
    pathway_weights,
    replayed,
)
from sdkd_plugin.distillers.reviewkd import hcl
from sdkd_plugin.errors import UserError

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

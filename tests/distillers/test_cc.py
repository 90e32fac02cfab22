"""CC's two losses by hand, against RepDistiller's numbers and slow versions.

Invariances, extremes, refusals.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula, load

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.cc import CC, neighbour_loss, rbf_loss
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

S, T = formula((5, 3), "s"), formula((5, 3), "t")


def rbf(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return rbf_loss(student, teacher, 0.4, 2)


def test_value_and_gradient_are_repdistillers():
    expected = load("losses")["cases"]["cc_on_embeddings"]
    student, teacher = (F.normalize(formula((8, 128), key)) for key in ("emb_s", "emb_t"))
    loss = neighbour_loss(student.requires_grad_(), teacher)
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    assert torch.autograd.grad(loss, student)[0].norm().item() == pytest.approx(
        expected["grad_norms"][0], rel=1e-8
    )


def test_neighbours_hand_computed():
    student = torch.tensor([[1.0, -2.0], [3.0, 1.0], [0.0, 4.0]])
    assert neighbour_loss(student, torch.zeros(3, 2)).item() == ((3 + 2) + (0 + 4)) / 2
    assert neighbour_loss(student[:1], torch.zeros(1, 2)).item() == 0  # nobody beside it


def test_rbf_hand_computed():
    apart, alike = torch.eye(2).double(), torch.ones(2, 1).double()  # cosines 0 and 1
    gap = math.exp(-1) * (1 + 1 / 2)  # the terms of order 1 and 2
    assert rbf_loss(apart, alike, 0.5, 2).item() == pytest.approx(2 * gap**2 / 4, rel=1e-12)


def test_slow_versions():
    neighbours = (
        sum(
            abs(S[i, d] - T[i, d]) * abs(S[i + 1, d] - T[i + 1, d])
            for i in range(4)
            for d in range(3)
        )
        / 4
    )
    assert neighbour_loss(S, T).item() == pytest.approx(neighbours.item(), rel=1e-10)
    total = 0.0
    for i in range(5):
        for j in range(5):
            kernels = []
            for x in (S, T):
                cosine = (x[i] @ x[j] / x[i].norm() / x[j].norm()).item()
                kernels.append(math.exp(-0.8) * (1 + 0.8 * cosine + 0.64 * cosine**2 / 2))
            total += (kernels[0] - kernels[1]) ** 2 / 25
    assert rbf(S, T).item() == pytest.approx(total, rel=1e-10)


def test_the_series_tends_to_the_gaussian_kernel():
    kernels = [
        torch.exp(-0.4 * torch.cdist(F.normalize(x), F.normalize(x)).square()) for x in (S, T)
    ]
    assert rbf_loss(S, T, 0.4, 20).item() == pytest.approx(F.mse_loss(*kernels).item(), rel=1e-10)


def test_neighbours_see_only_the_difference_and_not_its_sign():
    student, shift = S.clone().requires_grad_(), formula((5, 3), "shift")
    loss = neighbour_loss(student, T)
    (gradient,) = torch.autograd.grad(loss, student)
    other = (S + shift).requires_grad_()
    (moved,) = torch.autograd.grad(neighbour_loss(other, T + shift), other)
    torch.testing.assert_close(gradient, moved)
    mirrored = T.clone().requires_grad_()
    again = neighbour_loss(mirrored, S)
    assert again.item() == loss.item()
    torch.testing.assert_close(torch.autograd.grad(again, mirrored)[0], -gradient)


def test_rbf_does_not_see_rotation_and_scale():
    student, (rotation, _) = S.clone().requires_grad_(), torch.linalg.qr(formula((3, 3), "q"))
    other = (7 * S @ rotation).requires_grad_()
    loss, again = rbf(student, T), rbf(other, T / 3)
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(loss, student)[0] @ rotation / 7, torch.autograd.grad(again, other)[0]
    )


@pytest.mark.parametrize("loss", [neighbour_loss, rbf])
def test_equal_features_cost_nothing(loss):
    student = S.clone().requires_grad_()
    value = loss(student, S)
    assert value.item() == 0 and torch.autograd.grad(value, student)[0].abs().max() < 1e-15


@pytest.mark.parametrize("loss", [neighbour_loss, rbf])
def test_gradient_is_that_of_finite_differences(loss):
    assert torch.autograd.gradcheck(lambda s: loss(s, T), S.clone().requires_grad_())


@pytest.mark.parametrize("loss", [neighbour_loss, rbf])
@pytest.mark.parametrize("value", [0.0, 1.0, 500.0])
def test_extreme_and_constant_features_stay_finite(loss, value):
    student = torch.full((5, 3), value, requires_grad=True)
    found = loss(student, 500 * T.float())
    assert torch.isfinite(found) and torch.autograd.grad(found, student)[0].abs().max() < 1e4


def test_products_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = rbf(S.float(), T.float())
    assert loss.dtype == torch.float32 and torch.equal(loss, rbf(S.float(), T.float()))


def build(*words: str) -> CC:
    return CC(
        build_model("resnet8", 10),
        build_model("resnet8x4", 10),
        load_config(None, ["DISTILLER.TYPE", "CC", *words]),
    )


@pytest.mark.parametrize(
    "variant, extra", [("neighbour", 128 * (64 + 1) + 128 * (256 + 1)), ("rbf", 0)]
)
def test_one_step_is_the_variants_loss_of_the_pooled_features(variant, extra):
    distiller = build("CC.VARIANT", variant).double().train()
    assert distiller.get_extra_parameters() == extra
    image, target = formula((4, 3, 16, 16), "image"), torch.arange(4)
    with torch.no_grad():
        logits, losses = distiller(image=image, target=target)
        own, theirs = (
            net(image)[1]["pooled_feat"] for net in (distiller.student, distiller.teacher)
        )
        if variant == "neighbour":
            layers = (distiller.embed_s, distiller.embed_t)
            own, theirs = (
                x @ layer.weight.T + layer.bias
                for x, layer in zip((own, theirs), layers, strict=True)
            )
            expected = neighbour_loss(own, theirs)
        else:
            expected = rbf(own, theirs)
    assert losses["loss_kd"].item() == pytest.approx(0.02 * expected.item(), rel=1e-10)
    assert losses["loss_ce"].item() == pytest.approx(
        F.cross_entropy(logits, target).item(), rel=1e-12
    )


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("VARIANT", "rfb", "unknown variant 'rfb' in CC.VARIANT: did you mean 'rbf'"),
        ("FEAT_DIM", "0", "CC.FEAT_DIM is 0; allowed: 1 or more"),
        ("GAMMA", "0.0", "CC.GAMMA is 0.0; allowed: above 0"),
        ("P", "0", "CC.P is 0; allowed: 1 or more"),
    ],
)
def test_meaningless_settings_are_refused(key, value, message):
    with pytest.raises(UserError, match=message):
        build(f"CC.{key}", value)


def test_defaults_are_repdistillers():
    node = load_config(None).CC
    assert (node.CE_WEIGHT, node.FEAT_WEIGHT) == (1.0, 0.02)
    assert (node.VARIANT, node.FEAT_DIM) == ("neighbour", 128)

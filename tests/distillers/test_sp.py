"""SP's loss by hand, against mdistiller's numbers and a slow version; invariances, extremes."""

import pytest
import torch
from support.oracles import formula, load

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.sp import sp_loss


def test_value_and_gradient_are_mdistillers():
    expected = load("losses")["cases"]["sp_last_stage"]
    student = formula((8, 64, 8, 8), "s2").relu().requires_grad_()
    loss = sp_loss(student, formula((8, 128, 8, 8), "t2").relu())
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    assert torch.autograd.grad(loss, student)[0].norm().item() == pytest.approx(
        expected["grad_norms"][0], rel=1e-8
    )


def test_hand_computed():
    apart = torch.eye(2).view(2, 2, 1, 1)  # G is the identity
    alike = torch.tensor([[3.0], [3.0]]).view(2, 1, 1, 1)  # all entries equal: rows (1, 1) / sqrt 2
    half = 0.5**0.5
    assert sp_loss(apart, alike).item() == pytest.approx(
        (2 * (1 - half) ** 2 + 2 * 0.5) / 4, rel=1e-6
    )


def test_slow_version():
    feats = formula((4, 3, 2, 2), "s"), formula((4, 2, 3, 3), "t")
    grams = []
    for feat in feats:
        rows = [x.flatten().tolist() for x in feat]
        gram = [[sum(a * b for a, b in zip(one, two, strict=True)) for two in rows] for one in rows]
        grams.append([[v / sum(w**2 for w in row) ** 0.5 for v in row] for row in gram])
    expected = sum((grams[0][i][j] - grams[1][i][j]) ** 2 for i in range(4) for j in range(4)) / 16
    assert sp_loss(*feats).item() == pytest.approx(expected, rel=1e-10)


def test_rotating_and_scaling_activations_and_permuting_images_change_nothing():
    student, teacher = formula((4, 3, 2, 2), "s").requires_grad_(), formula((4, 2, 3, 3), "t")
    rotation, _ = torch.linalg.qr(formula((12, 12), "q"))
    loss = sp_loss(student, teacher)
    other = (5 * student.detach().flatten(1) @ rotation).flip(0).requires_grad_()
    again = sp_loss(other, teacher.flip(0))
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)
    one, two = torch.autograd.grad(loss, student)[0], torch.autograd.grad(again, other)[0]
    torch.testing.assert_close(one.flatten(1) @ rotation / 5, two.flip(0))


def test_equal_similarities_cost_nothing():
    student = formula((4, 3, 2, 2), "s").requires_grad_()
    loss = sp_loss(student, torch.cat([student.detach(), -student.detach()], 1))
    assert loss.item() < 1e-30 and torch.autograd.grad(loss, student)[0].abs().max() < 1e-14


def test_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(
        lambda s: sp_loss(s, formula((4, 2, 3, 3), "t")),
        formula((4, 3, 2, 2), "s").requires_grad_(),
    )


@pytest.mark.parametrize("value", [0.0, 1.0, 500.0])
def test_extreme_and_constant_maps_stay_finite(value):
    student = torch.full((4, 3, 2, 2), value, requires_grad=True)
    loss = sp_loss(student, 500 * formula((4, 2, 3, 3), "t").float())
    assert torch.isfinite(loss) and torch.autograd.grad(loss, student)[0].abs().max() < 10


def test_one_image_of_zeros_gets_no_gradient_and_leaves_the_others_theirs():
    student = formula((4, 3, 2, 2), "s")
    student[1] = 0
    loss = sp_loss(student.requires_grad_(), formula((4, 2, 3, 3), "t"))
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.abs().max() < 10 and (gradient[[0, 2, 3]].flatten(1).norm(dim=1) > 1e-3).all()


def test_products_are_float32_under_autocast():
    student, teacher = formula((4, 3, 2, 2), "s").float(), formula((4, 2, 3, 3), "t").float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sp_loss(student, teacher)
    assert loss.dtype == torch.float32 and torch.equal(loss, sp_loss(student, teacher))


def test_defaults_are_mdistillers():
    node = load_config(None).SP
    assert (node.LOSS.CE_WEIGHT, node.LOSS.FEAT_WEIGHT) == (1.0, 3000.0)

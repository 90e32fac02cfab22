"""PKT's loss by hand, against mdistiller's and RepDistiller's numbers and a slow version.

Invariances, extremes.
"""

import math

import pytest
import torch
from support.oracles import formula, load

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.pkt import pkt_loss


@pytest.mark.parametrize("case", ["pkt", "pkt_repdistiller"])
def test_value_and_gradient_are_the_reference_codes(case):
    expected = load("losses")["cases"][case]
    student = formula((8, 64), "pooled_s").relu().requires_grad_()
    loss = pkt_loss(student, formula((8, 128), "pooled_t").relu())
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    assert torch.autograd.grad(loss, student)[0].norm().item() == pytest.approx(
        expected["grad_norms"][0], rel=1e-8
    )


def test_hand_computed():
    # rows (2/3, 1/3) and (1/2, 1/2)
    apart, alike = (torch.eye(2).double(), torch.ones(2, 1).double())
    expected = (0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)) * 2 / 4
    assert pkt_loss(apart, alike).item() == pytest.approx(expected, rel=1e-5)


def test_slow_version():
    feats = formula((5, 3), "s"), formula((5, 4), "t")
    tables = []
    for feat in feats:
        rows = [[v / (sum(w**2 for w in row) ** 0.5 + 1e-7) for v in row] for row in feat.tolist()]
        table = [
            [(sum(a * b for a, b in zip(one, two, strict=True)) + 1) / 2 for two in rows]
            for one in rows
        ]
        tables.append([[v / sum(row) for v in row] for row in table])
    student, teacher = ([v for row in table for v in row] for table in tables)
    expected = (
        sum(t * math.log((t + 1e-7) / (s + 1e-7)) for s, t in zip(student, teacher, strict=True))
        / 25
    )
    assert pkt_loss(*feats).item() == pytest.approx(expected, rel=1e-10)


def test_rotation_changes_nothing_and_scale_next_to_nothing():
    student, teacher = formula((5, 3), "s").requires_grad_(), formula((5, 4), "t")
    rotation, _ = torch.linalg.qr(formula((3, 3), "q"))
    loss = pkt_loss(student, teacher)
    other = (student.detach() @ rotation).requires_grad_()
    again = pkt_loss(other, teacher)
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(loss, student)[0] @ rotation, torch.autograd.grad(again, other)[0]
    )
    assert pkt_loss(9 * student, teacher / 9).item() == pytest.approx(loss.item(), rel=1e-4)


def test_equal_relations_cost_nothing():
    student = formula((5, 3), "s").requires_grad_()
    loss = pkt_loss(student, student.detach())
    # EPS keeps the gradient from being 0 exactly
    assert loss.item() == 0 and torch.autograd.grad(loss, student)[0].abs().max() < 1e-7


def test_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(
        lambda s: pkt_loss(s, formula((5, 4), "t")), formula((5, 3), "s").requires_grad_()
    )


@pytest.mark.parametrize("value", [0.0, 1.0, 500.0])
def test_extreme_and_constant_features_stay_finite(value):
    student = torch.full((5, 3), value, requires_grad=True)
    loss = pkt_loss(student, 500 * formula((5, 4), "t").float())
    assert (
        torch.isfinite(loss) and loss > 0 and torch.autograd.grad(loss, student)[0].abs().max() < 10
    )


def test_opposite_features_stay_finite_in_float32():
    line = torch.linspace(0.1, 500, 64)[:, None] * formula((1, 33), "direction").float()
    student = torch.cat([line, -line]).requires_grad_()
    loss = pkt_loss(student, line.repeat(2, 1))
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


def test_products_are_float32_under_autocast():
    student, teacher = formula((5, 3), "s").float(), formula((5, 4), "t").float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pkt_loss(student, teacher)
    assert loss.dtype == torch.float32 and torch.equal(loss, pkt_loss(student, teacher))


def test_defaults_are_mdistillers():
    node = load_config(None).PKT
    assert (node.LOSS.CE_WEIGHT, node.LOSS.FEAT_WEIGHT) == (1.0, 30000.0)

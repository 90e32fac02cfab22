"""NST's loss by hand, against mdistiller's numbers and a slow version.

Both ways to compute it; invariances, extremes.
"""

import pytest
import torch
from support.oracles import formula, load

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.nst import discrepancy, nst_loss

STUDENT = [(8, 16, 32, 32), (8, 32, 16, 16), (8, 64, 8, 8)]
TEACHER = [(8, 32, 32, 32), (8, 64, 16, 16), (8, 128, 8, 8)]
SMALL = [(2, 3, 4, 4), (2, 12, 2, 2)]  # channels are fewer than positions, and more


def maps(key: str, shapes=SMALL) -> list[torch.Tensor]:
    return [formula(shape, f"{key}{i}") for i, shape in enumerate(shapes)]


def test_value_and_gradients_are_mdistillers():
    expected = load("losses")["cases"]["nst"]
    student = [x.relu().requires_grad_() for x in maps("s", STUDENT)]
    loss = nst_loss(student, [x.relu() for x in maps("t", TEACHER)])
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    norms = [gradient.norm().item() for gradient in torch.autograd.grad(loss, student)]
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-8)


def test_hand_computed():
    student = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)  # pattern (0.6, 0.8)
    teacher = torch.tensor([[2.0, 0.0], [0.0, 5.0]]).view(1, 2, 1, 2)  # patterns (1, 0), (0, 1)
    assert nst_loss([student], [teacher[:, :1]]).item() == pytest.approx(1 + 1 - 2 * 0.36, rel=1e-6)
    assert nst_loss([student], [teacher]).item() == pytest.approx(
        1 + 0.5 - 2 * (0.36 + 0.64) / 2, rel=1e-6
    )
    # means do not change when channels are repeated; of so many, positions are compared instead
    assert nst_loss(
        [student.repeat(1, 5, 1, 1)], [teacher.repeat(1, 3, 1, 1)]
    ).item() == pytest.approx(0.5, rel=1e-6)


def slow(student: torch.Tensor, teacher: torch.Tensor) -> float:
    """Channel pair by channel pair."""
    means = []
    for a, b in ((student, student), (teacher, teacher), (student, teacher)):
        total = 0.0
        for x, y in zip(a, b, strict=True):
            for one in x:
                for two in y:
                    total += ((one * two).sum() / one.norm() / two.norm()).item() ** 2
        means.append(total / (len(a) * a.shape[1] * b.shape[1]))
    return means[0] + means[1] - 2 * means[2]


def test_slow_version():
    student, teacher = maps("s"), maps("t", [(2, 4, 4, 4), (2, 9, 2, 2)])
    expected = sum(slow(*pair) for pair in zip(student, teacher, strict=True))
    assert nst_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_both_ways_have_one_value_and_gradient():
    few = formula((2, 6, 4), "few").requires_grad_()  # 4 * (6 + 6) >= 6 * 6: pairs of channels
    # 4 * (18 + 18) < 18 * 18: pairs of positions
    many = few.detach().repeat(1, 3, 1).requires_grad_()
    teacher = formula((2, 6, 4), "t")
    channels, positions = discrepancy(few, teacher), discrepancy(many, teacher.repeat(1, 3, 1))
    assert positions.item() == pytest.approx(channels.item(), rel=1e-12)
    one, two = torch.autograd.grad(channels, few)[0], torch.autograd.grad(positions, many)[0]
    torch.testing.assert_close(one, two[:, :6] + two[:, 6:12] + two[:, 12:])


def test_scale_sign_and_order_of_channels_do_not_count():
    student, teacher = [x.requires_grad_() for x in maps("s")], maps("t")
    loss = nst_loss(student, teacher)
    other = [(-3 * x.detach().flip(1)).requires_grad_() for x in student]
    again = nst_loss(other, [x / 7 for x in teacher])
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)
    for one, two in zip(
        torch.autograd.grad(loss, student), torch.autograd.grad(again, other), strict=True
    ):
        torch.testing.assert_close(one / -3, two.flip(1))


def test_equal_patterns_cost_nothing_and_a_map_without_partner_is_left_out():
    student = [x.requires_grad_() for x in maps("s")]
    loss = nst_loss(student, [*(2 * x.detach() for x in student), formula((2, 3, 4, 4), "alone")])
    assert abs(loss.item()) < 1e-15 and all(
        g.abs().max() < 1e-15 for g in torch.autograd.grad(loss, student)
    )


def test_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(
        lambda *s: nst_loss(s, maps("t")), [x.requires_grad_() for x in maps("s")]
    )


@pytest.mark.parametrize("value", [0.0, 1.0, 500.0])
def test_extreme_and_constant_maps_stay_finite(value):
    student = [torch.full(shape, value, requires_grad=True) for shape in SMALL]
    loss = nst_loss(student, [500 * x.float() for x in maps("t")])
    assert torch.isfinite(loss) and loss > 0
    assert all(gradient.abs().max() < 10 for gradient in torch.autograd.grad(loss, student))


def test_products_are_float32_under_autocast():
    student, teacher = [x.float() for x in maps("s")], [x.float() for x in maps("t")]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nst_loss(student, teacher)
    assert loss.dtype == torch.float32 and torch.equal(loss, nst_loss(student, teacher))


def test_defaults_are_mdistillers():
    node = load_config(None).NST
    assert (node.LOSS.CE_WEIGHT, node.LOSS.FEAT_WEIGHT) == (1.0, 50.0)

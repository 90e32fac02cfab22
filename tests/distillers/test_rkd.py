"""RKD's losses by hand, against both reference codes' numbers and a slow version.

Invariances, extremes, refusals.
"""

import math

import pytest
import torch
from support.oracles import formula, load

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.rkd import rkd_losses
from sdkd_plugin.errors import UserError


def weighted(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    distance, angle = rkd_losses(student, teacher)
    return 25 * distance + 50 * angle


@pytest.mark.parametrize("case", ["rkd_25_50", "rkd_repdistiller"])
def test_value_and_gradient_are_the_reference_codes(case):
    expected = load("losses")["cases"][case]
    student = formula((8, 64), "pooled_s").relu().requires_grad_()
    loss = weighted(student, formula((8, 128), "pooled_t").relu())
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    assert torch.autograd.grad(loss, student)[0].norm().item() == pytest.approx(
        expected["grad_norms"][0], rel=1e-8
    )


def test_hand_computed():
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]).double()  # sides 3, 4, 5; mean 4
    teacher = torch.tensor([[0.0], [1.0], [-1.0]]).double()  # sides 1, 1, 2; mean 4/3
    distance, angle = rkd_losses(student, teacher)
    # 3/4, 1, 5/4 against 3/4, 3/4, 3/2; each pair stands there twice
    assert distance.item() == pytest.approx(2 * (2 * 0.25**2 / 2) / 9, rel=1e-12)
    # cosines 0, 3/5, 4/5 against -1, 1, 1
    assert angle.item() == pytest.approx(2 * (1.0**2 + 0.4**2 + 0.2**2) / 2 / 27, rel=1e-12)
    # 9, 16, 25 over 50/3 against 1, 1, 4 over 2
    squares, _ = rkd_losses(student, teacher, squared=True)
    differences = (9 * 3 / 50 - 0.5, 16 * 3 / 50 - 0.5, 25 * 3 / 50 - 2)
    assert squares.item() == pytest.approx(2 * sum(d**2 for d in differences) / 2 / 9, rel=1e-12)


def slow(student: list[list[float]], teacher: list[list[float]]) -> tuple[float, float]:
    """Pair by pair, triplet by triplet."""
    n, found = len(student), []
    for points in (student, teacher):
        apart = [[math.dist(a, b) for b in points] for a in points]
        mean = sum(map(sum, apart)) / (n * (n - 1))
        cosines = {}
        for i in range(n):
            for j in range(n):
                for k in range(n):
                    to_j, to_k = (
                        [b - a for a, b in zip(points[i], points[m], strict=True)] for m in (j, k)
                    )
                    length = apart[i][j] * apart[i][k]
                    cosines[i, j, k] = (
                        sum(a * b for a, b in zip(to_j, to_k, strict=True)) / length
                        if length
                        else 0.0
                    )
        found.append(([d / mean for row in apart for d in row], list(cosines.values())))
    losses = []
    for own, goal in zip(*found, strict=True):
        gaps = [abs(a - b) for a, b in zip(own, goal, strict=True)]
        losses.append(sum(g**2 / 2 if g < 1 else g - 0.5 for g in gaps) / len(gaps))
    return losses[0], losses[1]


def test_slow_version():
    # differences below and above 1
    student, teacher = (formula((5, 3), "s"), formula((5, 2), "t") ** 5)
    expected = slow(student.tolist(), teacher.tolist())
    assert [loss.item() for loss in rkd_losses(student, teacher)] == pytest.approx(
        expected, rel=1e-10
    )


def test_moving_turning_and_scaling_all_features_change_nothing():
    student, teacher = formula((5, 3), "s").requires_grad_(), formula((5, 4), "t")
    rotation, _ = torch.linalg.qr(formula((3, 3), "q"))
    loss = weighted(student, teacher)
    other = (7 * student.detach() @ rotation + 2).requires_grad_()
    again = weighted(other, teacher / 3 - 1)
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)
    one, two = torch.autograd.grad(loss, student)[0], torch.autograd.grad(again, other)[0]
    torch.testing.assert_close(one @ rotation / 7, two)
    assert one.sum(0).abs().max() < 1e-13


def test_equal_relations_cost_nothing():
    student = formula((5, 3), "s").requires_grad_()
    loss = weighted(student, 4 * student.detach())
    assert loss.item() < 1e-28 and torch.autograd.grad(loss, student)[0].abs().max() < 1e-13


def test_gradient_is_that_of_finite_differences_and_none_reaches_the_teacher():
    teacher = formula((5, 4), "t").requires_grad_()
    student = formula((5, 3), "s").requires_grad_()
    assert torch.autograd.gradcheck(lambda s: weighted(s, teacher.detach()), student)
    assert torch.autograd.grad(weighted(student, teacher), teacher, allow_unused=True) == (None,)


@pytest.mark.parametrize("value", [0.0, 1.0, 500.0])
def test_extreme_and_constant_features_stay_finite(value):
    student, teacher = (
        torch.full((5, 3), value, requires_grad=True),
        500 * formula((5, 4), "t").float(),
    )
    loss = weighted(student, teacher)
    assert torch.isfinite(loss) and torch.autograd.grad(loss, student)[0].abs().max() == 0
    back = weighted(teacher.requires_grad_(), student.detach())
    assert torch.isfinite(back) and torch.isfinite(torch.autograd.grad(back, teacher)[0]).all()


def test_two_equal_images_leave_a_gradient_of_ordinary_size():
    student = formula((5, 3), "s")
    student[1] = student[0]
    loss = weighted(student.requires_grad_(), formula((5, 4), "t"))
    assert 1e-3 < torch.autograd.grad(loss, student)[0].norm() < 100


def test_a_batch_of_one_has_no_relations():
    student = formula((1, 3), "s").requires_grad_()
    loss = weighted(student, formula((1, 4), "t"))
    assert loss.item() == 0 and torch.autograd.grad(loss, student)[0].abs().max() == 0


def test_products_are_float32_under_autocast():
    student, teacher = formula((5, 3), "s").float(), formula((5, 4), "t").float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = rkd_losses(student, teacher)
    for loss, expected in zip(losses, rkd_losses(student, teacher), strict=True):
        assert loss.dtype == torch.float32 and torch.equal(loss, expected)


def test_epsilon_0_is_refused():
    with pytest.raises(UserError, match=r"RKD.PDIST.EPSILON is 0.0; allowed: above 0"):
        load_config(None, ["DISTILLER.TYPE", "RKD", "RKD.PDIST.EPSILON", "0.0"])


def test_defaults_are_mdistillers():
    node = load_config(None).RKD
    assert (node.DISTANCE_WEIGHT, node.ANGLE_WEIGHT) == (25, 50)
    assert (node.LOSS.CE_WEIGHT, node.LOSS.FEAT_WEIGHT) == (1.0, 1.0)
    assert (node.PDIST.EPSILON, node.PDIST.SQUARED) == (1e-12, False)

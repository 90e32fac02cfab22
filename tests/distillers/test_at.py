"""AT's loss by hand, against mdistiller's numbers and a slow version.

Invariances, extremes, refusals.
"""

import pytest
import torch
from support.oracles import formula, load

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.at import at_loss, attention
from sdkd_plugin.errors import UserError

STUDENT = [(8, 16, 32, 32), (8, 32, 16, 16), (8, 64, 8, 8)]
WIDER = [(8, 32, 32, 32), (8, 64, 16, 16), (8, 128, 8, 8)]
SMALL = [(3, 2, 4, 4), (3, 3, 2, 2)]


def maps(key: str, shapes=SMALL) -> list[torch.Tensor]:
    return [formula(shape, f"{key}{i}") for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(
    "case, teacher_shapes", [("at_p2", STUDENT), ("at_p2_wider_teacher", WIDER)]
)
def test_value_and_gradients_are_mdistillers(case, teacher_shapes):
    expected = load("losses")["cases"][case]
    student = [x.relu().requires_grad_() for x in maps("s", STUDENT)]
    loss = at_loss(student, [x.relu() for x in maps("t", teacher_shapes)], 2.0)
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    norms = [gradient.norm().item() for gradient in torch.autograd.grad(loss, student)]
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-8)


def test_hand_computed():
    student, teacher = (
        torch.tensor([3.0, -4.0]).view(1, 1, 1, 2),
        torch.tensor([4.0, 3.0]).view(1, 1, 1, 2),
    )
    # (0.6, 0.8) and (0.8, 0.6)
    assert at_loss([student], [teacher], 1.0).item() == pytest.approx(0.2**2, rel=1e-5)
    roots_s, roots_t = student.abs().sqrt(), teacher.sqrt()
    assert at_loss([roots_s, roots_s], [roots_t, roots_t], 2.0).item() == pytest.approx(
        2 * 0.2**2, rel=1e-5
    )
    # the mean over channels is (3, 4)
    two = torch.tensor([[3.0, 1.0], [3.0, 7.0]]).view(1, 2, 1, 2)
    torch.testing.assert_close(attention(two, 1.0), torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_slow_version(p):
    student, teacher = maps("s"), maps("t")
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        stage = 0.0
        for n in range(len(s)):
            rows = []
            for x in (s[n], t[n]):
                row = [
                    sum(abs(c) ** p for c in x[:, i, j].tolist()) / len(x)
                    for i in range(x.shape[1])
                    for j in range(x.shape[2])
                ]
                length = sum(v**2 for v in row) ** 0.5
                rows.append([v / length for v in row])
            stage += sum((a - b) ** 2 for a, b in zip(*rows, strict=True)) / len(rows[0])
        total += stage / len(s)
    assert at_loss(student, teacher, p).item() == pytest.approx(total, rel=1e-10)


def test_scaling_an_image_and_permuting_channels_change_nothing():
    student, teacher = [x.requires_grad_() for x in maps("s")], maps("t")
    loss = at_loss(student, teacher, 2.0)
    other = [(3 * x.detach().flip(1)).requires_grad_() for x in student]
    again = at_loss(other, [x / 7 for x in teacher], 2.0)
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)
    for one, two in zip(
        torch.autograd.grad(loss, student), torch.autograd.grad(again, other), strict=True
    ):
        torch.testing.assert_close(one / 3, two.flip(1))


def test_equal_attention_costs_nothing():
    student = [x.requires_grad_() for x in maps("s")]
    loss = at_loss(student, [-5 * x.detach() for x in student], 2.0)
    assert loss.item() < 1e-30 and all(
        g.abs().max() < 1e-14 for g in torch.autograd.grad(loss, student)
    )


def test_the_larger_map_is_pooled_and_a_map_without_partner_left_out():
    student, teacher = maps("s"), maps("t")
    large = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in teacher]
    expected = at_loss(student, teacher, 2.0).item()
    assert at_loss(student, large, 2.0).item() == pytest.approx(expected, rel=1e-12)
    assert at_loss([*student, student[0]], teacher, 2.0).item() == expected


def test_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(
        lambda *s: at_loss(s, maps("t"), 2.0), [x.requires_grad_() for x in maps("s")]
    )


@pytest.mark.parametrize("value", [0.0, 1.0, 500.0])
def test_extreme_and_constant_maps_stay_finite(value):
    student = [torch.full(shape, value, requires_grad=True) for shape in SMALL]
    teacher = [500 * x.float() for x in maps("t")]
    loss = at_loss(student, teacher, 2.0)
    assert torch.isfinite(loss) and loss > 0
    assert all(gradient.abs().max() < 10 for gradient in torch.autograd.grad(loss, student))


def test_an_exponent_below_1_is_refused():
    with pytest.raises(UserError, match=r"AT.P is 0.5; allowed: 1 or more"):
        load_config(None, ["DISTILLER.TYPE", "AT", "AT.P", "0.5"])


def test_defaults_are_mdistillers():
    node = load_config(None).AT
    assert (node.P, node.LOSS.CE_WEIGHT, node.LOSS.FEAT_WEIGHT) == (2, 1.0, 1000.0)

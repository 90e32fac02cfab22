"""TTM's loss: by hand, an independent version, KD where they meet, extremes, refusals."""

import math

import pytest
import torch
from cases import Fixed
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.ttm import TTM, ttm_loss
from sdkd_plugin.errors import UserError

SHAPE = (8, 20)
STUDENT, TEACHER = 4 * formula(SHAPE, "logits_s"), 4 * formula(SHAPE, "logits_t")
TARGET = torch.floor(10 * (formula((8,), "target") + 1)).long()


def slow_loss(student: Tensor, teacher: Tensor, gamma: float) -> float:
    """The definition with powers of probabilities in plain Python, one image at a time."""
    total = 0.0
    for z_s, z_t in zip(student.tolist(), teacher.tolist(), strict=True):
        p_s, p_t = ([math.exp(v) for v in z] for z in (z_s, z_t))
        powers = [(a / sum(p_t)) ** gamma for a in p_t]
        for a, b in zip(powers, p_s, strict=True):
            total += a / sum(powers) * math.log(a / sum(powers) / (b / sum(p_s)))
    return total / len(student)


def test_hand_computed():
    # (0.9, 0.1) to the power 1/2 is 3 to 1; the second image's student has just that
    teacher = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
    student = torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log()
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert ttm_loss(student, teacher, 0.5).item() == pytest.approx(kl / 2, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
def test_it_equals_an_independent_version(gamma):
    loss = ttm_loss(STUDENT, TEACHER, gamma)
    assert loss.item() == pytest.approx(slow_loss(STUDENT, TEACHER, gamma), rel=1e-10)


def test_it_is_kd_without_the_students_temperature_and_without_its_square():
    for tau in (1.0, 4.0):
        expected = kd_loss(STUDENT, TEACHER, tau).item() / tau**2
        assert ttm_loss(STUDENT / tau, TEACHER, 1 / tau).item() == pytest.approx(
            expected, rel=1e-12
        )


def test_the_gradient_is_the_difference_of_the_probabilities():
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ttm_loss(student, TEACHER, 0.1), student)
    powers = TEACHER.softmax(1) ** 0.1
    expected = (STUDENT.softmax(1) - powers / powers.sum(1, keepdim=True)) / len(STUDENT)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-15)


def test_a_student_with_the_powered_probabilities_has_nothing_to_learn():
    student = (0.1 * TEACHER + 3).requires_grad_()
    loss = ttm_loss(student, TEACHER, 0.1)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(0, abs=1e-15) and gradient.abs().max() < 1e-15


def test_a_small_power_asks_for_the_uniform_distribution():
    logs = STUDENT.log_softmax(1)
    uniform = -(logs + math.log(SHAPE[1])).mean(1).mean().item()
    assert ttm_loss(STUDENT, TEACHER, 1e-9).item() == pytest.approx(uniform, rel=1e-6)


def test_gradient_is_that_of_finite_differences():
    student, teacher = (formula((3, 5), key).requires_grad_() for key in "st")
    assert torch.autograd.gradcheck(lambda s, t: ttm_loss(s, t, 0.3), (student, teacher))


def test_a_logit_gap_of_500_stays_exact():
    """exp(-500) is 0 in float32, but a tenth of its logarithm is not."""
    student = torch.tensor([[500.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 500.0]])
    loss = ttm_loss(student, teacher, 0.01)
    loss.backward()
    q = 1 / (1 + math.exp(5))  # of class 0
    expected = q * math.log(q) + (1 - q) * (math.log(1 - q) + 500)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(student.grad, torch.tensor([[1 - q, q - 1]]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype):
    student, teacher = STUDENT.to(dtype), TEACHER.to(dtype)
    half = ttm_loss(student, teacher, 0.1)
    assert half.dtype == torch.float32
    assert half.item() == ttm_loss(student.float(), teacher.float(), 0.1).item()


def test_the_distiller_weighs_both_losses_and_detaches_the_teacher():
    words = "DISTILLER.TYPE TTM TTM.CE_WEIGHT 0.5 TTM.BETA 7 TTM.GAMMA 0.3"
    distiller = TTM(Fixed(STUDENT), Fixed(TEACHER), load_config(None, words.split())).train()
    _, losses = distiller(image=torch.zeros(1), target=TARGET)
    expected = 7 * slow_loss(STUDENT, TEACHER, 0.3)
    assert losses["loss_kd"].item() == pytest.approx(expected, rel=1e-10)
    cross_entropy = -STUDENT.log_softmax(1)[torch.arange(8), TARGET].mean().item()
    assert losses["loss_ce"].item() == pytest.approx(0.5 * cross_entropy, rel=1e-12)
    sum(losses.values()).backward()
    assert distiller.student.logits.grad is not None and distiller.teacher.logits.grad is None


@pytest.mark.parametrize("gamma", [0.0, -0.1, math.nan])
def test_a_power_not_above_zero_is_refused(gamma):
    with pytest.raises(UserError, match=f"gamma is {gamma}; allowed: above 0"):
        ttm_loss(STUDENT, TEACHER, gamma)


def test_a_teacher_with_other_classes_is_refused():
    with pytest.raises(UserError, match=r"shapes \[8, 20\] and \[8, 10\]"):
        ttm_loss(STUDENT, TEACHER[:, :10], 0.1)


@pytest.mark.parametrize("key, value", [("GAMMA", 0), ("BETA", -1), ("CE_WEIGHT", -1)])
def test_config_values_that_mean_nothing_are_refused(key, value):
    with pytest.raises(UserError, match=rf"TTM.{key} is {value}(.0)?; allowed: "):
        load_config(None, ["DISTILLER.TYPE", "TTM", f"TTM.{key}", str(value)])


def test_defaults_are_those_of_the_authors_one_command():
    cfg = load_config(None).TTM
    assert (cfg.CE_WEIGHT, cfg.BETA, cfg.GAMMA) == (1.0, 45.0, 0.1)

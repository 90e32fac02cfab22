"""NormKD's loss: by hand, an independent version, KD and LSKD where they meet, refusals."""

import math
import statistics

import pytest
import torch
from cases import Fixed
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.lskd import standardised
from sdkd_plugin.distillers.normkd import NormKD, normkd_loss
from sdkd_plugin.errors import UserError

SHAPE = (8, 20)
STUDENT, TEACHER = 4 * formula(SHAPE, "logits_s"), 4 * formula(SHAPE, "logits_t")
TARGET = torch.floor(10 * (formula((8,), "target") + 1)).long()


def slow_loss(student: Tensor, teacher: Tensor, t_norm: float) -> float:
    """The definition with probabilities in plain Python, one image at a time."""
    total = 0.0
    for z_s, z_t in zip(student.tolist(), teacher.tolist(), strict=True):
        t_s, t_t = (t_norm * statistics.stdev(z) for z in (z_s, z_t))
        p_s = [math.exp(v / t_s) for v in z_s]
        p_t = [math.exp(v / t_t) for v in z_t]
        for a, b in zip(p_t, p_s, strict=True):
            total += t_t**2 * a / sum(p_t) * math.log(a / sum(p_t) / (b / sum(p_s)))
    return total / len(student)


def test_hand_computed():
    # of two logits a > b the deviation is (a - b) / sqrt 2, so over 2 of it they are 1 / sqrt 2
    # apart, whatever they are; the second image's order is the teacher's
    student, teacher = (
        torch.tensor([[0.0, 7.0], [9.0, 1.0]]),
        torch.tensor([[3.0, 1.0], [4.0, 0.0]]),
    )
    gap = math.sqrt(0.5)
    p = 1 / (1 + math.exp(-gap))
    kl = (2 * p - 1) * gap  # from (p, 1 - p) to (1 - p, p)
    squared = (2 * 2 / math.sqrt(2)) ** 2  # t_T^2 of the first image: 8
    loss = normkd_loss(student, teacher, 2.0)
    assert loss.item() == pytest.approx(squared * kl / 2, rel=1e-5)


@pytest.mark.parametrize("t_norm", [0.5, 2.0])
def test_it_equals_an_independent_version(t_norm):
    loss = normkd_loss(STUDENT, TEACHER, t_norm)
    assert loss.item() == pytest.approx(slow_loss(STUDENT, TEACHER, t_norm), rel=1e-10)


def test_with_deviations_of_1_it_is_kd_in_value_and_teacher_for_teacher_lskd():
    student, teacher = standardised(STUDENT), standardised(TEACHER)
    assert normkd_loss(student, teacher, 3.0).item() == pytest.approx(
        kd_loss(student, teacher, 3.0).item(), rel=1e-6
    )
    for z_s, z_t in zip(STUDENT, TEACHER, strict=True):  # LSKD times the teacher's variance
        lskd = kd_loss(standardised(z_s[None]), standardised(z_t[None]), 2.0)
        assert normkd_loss(z_s[None], z_t[None], 2.0).item() == pytest.approx(
            z_t.var().item() * lskd.item(), rel=1e-5
        )


def test_the_students_size_does_not_count_and_the_teachers_by_its_square():
    student = STUDENT.clone().requires_grad_()
    loss = normkd_loss(student, TEACHER, 2.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert normkd_loss(0.1 * STUDENT - 3, TEACHER, 2.0).item() == pytest.approx(
        loss.item(), rel=1e-9
    )
    assert normkd_loss(STUDENT, 3 * TEACHER + 5, 2.0).item() == pytest.approx(
        9 * loss.item(), rel=1e-9
    )
    # so nothing in the gradient asks for another size or mean
    assert gradient.sum(1).abs().max() < 1e-14
    assert (gradient * STUDENT).sum(1).abs().max() < 1e-13
    assert gradient.abs().max() > 1e-3


def test_equal_logits_give_zero_with_zero_gradient():
    student = TEACHER.clone().requires_grad_()
    loss = normkd_loss(student, TEACHER, 2.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(0, abs=1e-14) and gradient.abs().max() < 1e-14


def test_gradient_is_that_of_finite_differences():
    student, teacher = (formula((3, 5), key).requires_grad_() for key in "st")
    assert torch.autograd.gradcheck(lambda s, t: normkd_loss(s, t, 2.0), (student, teacher))


def test_rows_of_equal_logits_are_uniform():
    uniform, teacher = torch.full((1, 4), 5.0), torch.tensor([[3.0, 1.0, 0.0, 0.0]])
    student = uniform.clone().requires_grad_()
    loss = normkd_loss(student, teacher, 2.0)
    loss.backward()
    deviation = teacher.std().item()
    q = torch.softmax(teacher.double() / (2 * deviation), 1)
    expected = (2 * deviation) ** 2 * (q * (4 * q).log()).sum().item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(student.grad).all()
    assert normkd_loss(teacher, uniform, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_a_logit_gap_of_500_stays_finite():
    student = torch.tensor([[500.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 500.0, 0.0]])
    loss = normkd_loss(student, teacher, 2.0)
    loss.backward()
    # both have the deviation 500 / sqrt 3, so the leading logit is sqrt 3 / 2 above the others
    gap, t = math.sqrt(3) / 2, 1000 / math.sqrt(3)
    p, rest = (math.exp(x) / (math.exp(gap) + 2) for x in (gap, 0.0))
    assert loss.item() == pytest.approx(t**2 * (p - rest) * gap, rel=1e-5)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype):
    student, teacher = STUDENT.to(dtype), TEACHER.to(dtype)
    half = normkd_loss(student, teacher, 2.0)
    assert half.dtype == torch.float32
    assert half.item() == normkd_loss(student.float(), teacher.float(), 2.0).item()


def test_the_distiller_weighs_both_losses_and_detaches_the_teacher():
    words = (
        "DISTILLER.TYPE NORMKD NORMKD.TEMPERATURE_NORM 3 NORMKD.LOSS.CE_WEIGHT 0.5 "
        "NORMKD.LOSS.KD_WEIGHT 2"
    )
    distiller = NormKD(Fixed(STUDENT), Fixed(TEACHER), load_config(None, words.split())).train()
    _, losses = distiller(image=torch.zeros(1), target=TARGET)
    assert losses["loss_kd"].item() == pytest.approx(
        2 * slow_loss(STUDENT, TEACHER, 3.0), rel=1e-10
    )
    cross_entropy = -STUDENT.log_softmax(1)[torch.arange(8), TARGET].mean().item()
    assert losses["loss_ce"].item() == pytest.approx(0.5 * cross_entropy, rel=1e-12)
    sum(losses.values()).backward()
    assert distiller.student.logits.grad is not None and distiller.teacher.logits.grad is None


def test_what_means_nothing_is_refused():
    with pytest.raises(UserError, match=r"tau is 0\.0; allowed: above 0"):
        normkd_loss(STUDENT, TEACHER, 0.0)
    with pytest.raises(UserError, match=r"shapes \[8, 20\] and \[8, 10\]"):
        normkd_loss(STUDENT, TEACHER[:, :10], 2.0)
    with pytest.raises(UserError, match="NORMKD got logits for 1 class; allowed: 2 or more"):
        normkd_loss(STUDENT[:, :1], TEACHER[:, :1], 2.0)


@pytest.mark.parametrize("key, value", [("TEMPERATURE_NORM", 0), ("LOSS.KD_WEIGHT", -1)])
def test_config_values_that_mean_nothing_are_refused(key, value):
    with pytest.raises(UserError, match=rf"NORMKD.{key} is {value}(.0)?; allowed: "):
        load_config(None, ["DISTILLER.TYPE", "NORMKD", f"NORMKD.{key}", str(value)])


def test_defaults_are_the_authors():
    cfg = load_config(None).NORMKD
    assert (cfg.TEMPERATURE_NORM, cfg.LOSS.CE_WEIGHT, cfg.LOSS.KD_WEIGHT) == (2.0, 0.1, 0.9)

"""WTTM's weights and KL: by hand, an independent version, TTM where they meet, refusals."""

import math

import pytest
import torch
from cases import Fixed
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.ttm import ttm_loss
from sdkd_plugin.distillers.wttm import WTTM, wttm_terms
from sdkd_plugin.errors import UserError

SHAPE = (8, 20)
STUDENT, TEACHER = 4 * formula(SHAPE, "logits_s"), 4 * formula(SHAPE, "logits_t")
TARGET = torch.floor(10 * (formula((8,), "target") + 1)).long()


def slow_terms(student: Tensor, teacher: Tensor, gamma: float) -> list[tuple[float, float]]:
    """U and KL of each image, with powers of probabilities in plain Python."""
    terms = []
    for z_s, z_t in zip(student.tolist(), teacher.tolist(), strict=True):
        p_s, p_t = ([math.exp(v) for v in z] for z in (z_s, z_t))
        powers = [(a / sum(p_t)) ** gamma for a in p_t]
        q, p = [a / sum(powers) for a in powers], [b / sum(p_s) for b in p_s]
        kl = sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
        terms.append((sum(powers), kl))
    return terms


def loss(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    weight, divergence = wttm_terms(student, teacher, gamma)
    return (weight * divergence).mean()


def test_hand_computed():
    # (0.9, 0.1) to the power 1/2: 3 to 1, of sum 4 / sqrt 10; (1/2, 1/2): of sum sqrt 2
    teacher = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64).log()
    student = torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=torch.float64).log()
    weight, divergence = wttm_terms(student, teacher, 0.5)
    assert weight.tolist() == pytest.approx([4 / math.sqrt(10), math.sqrt(2)], rel=1e-12)
    first = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    second = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(2)
    assert divergence.tolist() == pytest.approx([first, second], rel=1e-12)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
def test_both_terms_equal_an_independent_version(gamma):
    terms = zip(*(term.tolist() for term in wttm_terms(STUDENT, TEACHER, gamma)), strict=True)
    for ours, slow in zip(terms, slow_terms(STUDENT, TEACHER, gamma), strict=True):
        assert ours == pytest.approx(slow, rel=1e-10)


def test_its_divergence_is_ttms_and_with_power_1_so_is_the_loss():
    student = STUDENT.clone().requires_grad_()
    _, divergence = wttm_terms(student, TEACHER, 0.2)
    assert divergence.mean().item() == pytest.approx(
        ttm_loss(STUDENT, TEACHER, 0.2).item(), rel=1e-12
    )
    pair = loss(student, TEACHER, 1.0), ttm_loss(student, TEACHER, 1.0)
    assert pair[0].item() == pytest.approx(pair[1].item(), rel=1e-12)
    gradients = [torch.autograd.grad(each, student)[0] for each in pair]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_the_weight_goes_from_1_to_a_power_of_the_classes_as_the_teacher_gets_less_sure(gamma):
    sure = torch.tensor([[500.0, *[0.0] * 9]], dtype=torch.float64)
    sizes = [100.0, 10.0, 3.0, 1.0, 0.3, 0.0]
    teacher = torch.cat([sure / 500 * size for size in sizes])
    weight, _ = wttm_terms(torch.zeros(6, 10).double(), teacher, gamma)
    assert weight[0].item() == pytest.approx(1 + 9 * math.exp(-100 * gamma), rel=1e-9)
    assert weight[-1].item() == pytest.approx(10 ** (1 - gamma), rel=1e-12)
    assert (weight.diff() > 0).all()


def test_the_gradient_is_each_images_difference_of_probabilities_times_its_weight():
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, TEACHER, 0.2), student)
    powers = TEACHER.softmax(1) ** 0.2
    expected = (powers.sum(1, keepdim=True) * STUDENT.softmax(1) - powers) / len(STUDENT)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


def test_gradient_is_that_of_finite_differences():
    student, teacher = (formula((3, 5), key).requires_grad_() for key in "st")
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, 0.3), (student, teacher))


def test_a_logit_gap_of_500_stays_exact():
    student = torch.tensor([[500.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 500.0]])
    weight, divergence = wttm_terms(student, teacher, 0.01)
    divergence.sum().backward()
    q = 1 / (1 + math.exp(5))  # of class 0
    expected = q * math.log(q) + (1 - q) * (math.log(1 - q) + 500)
    assert weight.item() == pytest.approx(1 + math.exp(-5), rel=1e-6)
    assert divergence.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(student.grad, torch.tensor([[1 - q, q - 1]]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype):
    student, teacher = STUDENT.to(dtype), TEACHER.to(dtype)
    half = wttm_terms(student, teacher, 0.2)
    assert all(term.dtype == torch.float32 for term in half)
    wide = wttm_terms(student.float(), teacher.float(), 0.2)
    assert [term.tolist() for term in half] == [term.tolist() for term in wide]


def test_the_distiller_weighs_each_image_and_both_losses_and_detaches_the_teacher():
    words = "DISTILLER.TYPE WTTM WTTM.CE_WEIGHT 0.5 WTTM.BETA 7 WTTM.GAMMA 0.3"
    distiller = WTTM(Fixed(STUDENT), Fixed(TEACHER), load_config(None, words.split())).train()
    _, losses = distiller(image=torch.zeros(1), target=TARGET)
    terms = slow_terms(STUDENT, TEACHER, 0.3)
    expected = 7 * sum(u * kl for u, kl in terms) / 8
    assert losses["loss_kd"].item() == pytest.approx(expected, rel=1e-10)
    means = {"weight": sum(u for u, _ in terms) / 8, "kl": sum(kl for _, kl in terms) / 8}
    shown = {name: term.item() for name, term in distiller.terms.items()}
    assert shown == pytest.approx(means, rel=1e-10)
    cross_entropy = -STUDENT.log_softmax(1)[torch.arange(8), TARGET].mean().item()
    assert losses["loss_ce"].item() == pytest.approx(0.5 * cross_entropy, rel=1e-12)
    sum(losses.values()).backward()
    assert distiller.student.logits.grad is not None and distiller.teacher.logits.grad is None


@pytest.mark.parametrize("gamma", [0.0, -0.1, math.nan])
def test_a_power_not_above_zero_is_refused(gamma):
    with pytest.raises(UserError, match=f"gamma is {gamma}; allowed: above 0"):
        wttm_terms(STUDENT, TEACHER, gamma)


def test_a_teacher_with_other_classes_is_refused():
    with pytest.raises(UserError, match=r"shapes \[8, 20\] and \[8, 10\]"):
        wttm_terms(STUDENT, TEACHER[:, :10], 0.1)


@pytest.mark.parametrize("key, value", [("GAMMA", 0), ("BETA", -1), ("CE_WEIGHT", -1)])
def test_config_values_that_mean_nothing_are_refused(key, value):
    with pytest.raises(UserError, match=rf"WTTM.{key} is {value}(.0)?; allowed: "):
        load_config(None, ["DISTILLER.TYPE", "WTTM", f"WTTM.{key}", str(value)])


def test_defaults_are_those_of_the_authors_one_command():
    cfg = load_config(None).WTTM
    assert (cfg.CE_WEIGHT, cfg.BETA, cfg.GAMMA) == (1.0, 4.0, 0.2)

"""KD's loss: mdistiller's numbers, values by hand, limits, extremes, refusals."""

import math

import pytest
import torch
from cases import Fixed
from support.oracles import formula, load

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.kd import KD, kd_loss
from sdkd_plugin.errors import UserError

SHAPE = (8, 100)


def random_pair(shape=SHAPE, scale=4.0):
    return scale * formula(shape, "student"), scale * formula(shape, "teacher")


def test_value_and_gradient_equal_mdistillers():
    expected = load("losses")["cases"]["kd_tau4"]
    student = (4 * formula(SHAPE, "logits_s")).requires_grad_()
    loss = kd_loss(student, 4 * formula(SHAPE, "logits_t"), 4.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    assert gradient.norm().item() == pytest.approx(expected["grad_norms"][0], rel=1e-8)


def test_hand_computed_two_samples():
    # p_T = (3/4, 1/4), p_S = (1/2, 1/2) at tau 2; the second sample's logits agree, and the mean
    # over two halves the first.
    teacher = torch.tensor([[2 * math.log(3), 0.0], [1.0, 5.0]])
    student = torch.tensor([[7.0, 7.0], [1.0, 5.0]])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert kd_loss(student, teacher, 2.0).item() == pytest.approx(4 * kl / 2, rel=1e-6)


def test_equal_logits_give_zero_with_zero_gradient():
    teacher = random_pair()[1]
    student = teacher.clone().requires_grad_()
    loss = kd_loss(student, teacher, 4.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == 0
    assert gradient.abs().max() < 1e-16


def test_shifting_a_row_changes_nothing():
    student, teacher = random_pair()
    shift = 10 * formula((8, 1), "shift")
    expected = kd_loss(student, teacher, 4.0).item()
    assert kd_loss(student + shift, teacher - 3 * shift, 4.0).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_large_tau_is_half_the_squared_distance_of_centred_logits_over_k():
    # Hinton et al., section 2.1: tau^2 KL -> |z_S - z_T|^2 / (2 K) once both are centred
    student, teacher = (z - z.mean(1, keepdim=True) for z in random_pair())
    limit = (student - teacher).square().sum(1).mean() / (2 * SHAPE[1])
    assert kd_loss(student, teacher, 1e5).item() == pytest.approx(limit.item(), rel=1e-4)


def test_gradient_is_that_of_finite_differences():
    student, teacher = (z.requires_grad_() for z in random_pair((3, 5)))
    assert torch.autograd.gradcheck(lambda s, t: kd_loss(s, t, 4.0), (student, teacher))


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_a_logit_gap_of_500_stays_finite_and_exact(tau):
    student = torch.tensor([[500.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 500.0, 0.0]])
    loss = kd_loss(student, teacher, tau)
    loss.backward()
    # the teacher is sure of a class the student gives exp(-500 / tau)
    assert loss.item() == pytest.approx(500 * tau, rel=1e-6)
    torch.testing.assert_close(student.grad, torch.tensor([[tau, -tau, 0.0]]))


def test_half_precision_logits_are_widened():
    student, teacher = random_pair()
    loss = kd_loss(student.bfloat16(), teacher.bfloat16(), 4.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        kd_loss(student.bfloat16().double(), teacher.bfloat16().double(), 4.0).item(), rel=1e-5
    )


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_a_temperature_not_above_zero_is_refused(tau):
    with pytest.raises(UserError, match=f"tau is {tau}; allowed: above 0"):
        kd_loss(*random_pair(), tau)


def test_a_teacher_with_other_classes_is_refused():
    with pytest.raises(UserError, match=r"shapes \[8, 100\] and \[8, 10\]"):
        kd_loss(formula((8, 100), "s"), formula((8, 10), "t"), 4.0)


def test_the_distiller_weighs_both_losses_and_detaches_the_teacher():
    student, teacher = (z.float() for z in random_pair())
    cfg = load_config(
        None, "DISTILLER.TYPE KD KD.TEMPERATURE 3 KD.LOSS.CE_WEIGHT 0.5 KD.LOSS.KD_WEIGHT 2".split()
    )
    target = torch.arange(8)
    distiller = KD(Fixed(student), Fixed(teacher), cfg).train()
    _, losses = distiller(image=torch.zeros(1), target=target)
    assert losses["loss_kd"].item() == pytest.approx(
        2 * kd_loss(student, teacher, 3.0).item(), rel=1e-6
    )
    assert losses["loss_ce"].item() == pytest.approx(
        -0.5 * student.log_softmax(1)[target, target].mean().item(), rel=1e-6
    )
    sum(losses.values()).backward()
    assert distiller.student.logits.grad is not None and distiller.teacher.logits.grad is None


def test_defaults_are_mdistillers():
    cfg = load_config(None).KD
    assert (cfg.TEMPERATURE, cfg.LOSS.CE_WEIGHT, cfg.LOSS.KD_WEIGHT) == (4.0, 0.1, 0.9)

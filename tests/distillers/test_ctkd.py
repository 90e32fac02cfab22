"""CTKD: KD's loss at each temperature, the temperature's reversed gradient, its curriculum."""

import math

import pytest
import torch
from cases import Fixed
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.distillers.ctkd import CTKD, ctkd_loss, curriculum, reversed_gradient
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.errors import UserError

SHAPE = (8, 20)
STUDENT, TEACHER = 4 * formula(SHAPE, "logits_s"), 4 * formula(SHAPE, "logits_t")
TARGET = torch.floor(10 * (formula((8,), "target") + 1)).long()


def build(*words: str) -> CTKD:
    cfg = scaled_config(load_config(None, ["DISTILLER.TYPE", "CTKD", *words]))
    return CTKD(Fixed(STUDENT.clone()), Fixed(TEACHER), cfg).double().train()


def slow_loss(student: Tensor, teacher: Tensor, tau: float) -> float:
    """The definition with probabilities in plain Python, one image and class at a time."""
    total = 0.0
    for z_s, z_t in zip(student.tolist(), teacher.tolist(), strict=True):
        p_s, p_t = ([math.exp(v / tau) for v in z] for z in (z_s, z_t))
        for a, b in zip(p_t, p_s, strict=True):
            total += a / sum(p_t) * math.log(a / sum(p_t) / (b / sum(p_s)))
    return tau**2 * total / len(student)


def test_hand_computed():
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    # at tau 2: (3/4, 1/4) and (1/2, 1/2)
    loss = ctkd_loss(student, teacher, torch.tensor(2.0))
    assert loss.item() == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-6)


@pytest.mark.parametrize("tau", [1.0, 15.6])
def test_the_loss_is_kds_and_an_independent_versions(tau):
    student = STUDENT.clone().requires_grad_()
    loss = ctkd_loss(student, TEACHER, torch.tensor(tau, dtype=torch.float64))
    assert loss.item() == pytest.approx(slow_loss(STUDENT, TEACHER, tau), rel=1e-10)
    gradients = [
        torch.autograd.grad(each, student)[0] for each in (loss, kd_loss(student, TEACHER, tau))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-15)


def test_gradient_is_that_of_finite_differences_for_the_temperature_too():
    student, teacher = (formula((3, 5), key).requires_grad_() for key in "st")
    tau = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ctkd_loss, (student, teacher, tau))


def test_equal_logits_give_zero_with_zero_gradient():
    student = TEACHER.clone().requires_grad_()
    tau = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    loss = ctkd_loss(student, TEACHER, tau)
    gradients = torch.autograd.grad(loss, (student, tau))
    assert abs(loss.item()) < 1e-15
    assert all(gradient.abs().max() < 1e-14 for gradient in gradients)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_a_logit_gap_of_500_stays_finite_and_exact(tau):
    student = torch.tensor([[500.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 500.0, 0.0]])
    temperature = torch.tensor(tau, requires_grad=True)
    loss = ctkd_loss(student, teacher, temperature)  # tau^2 500 / tau
    gradients = torch.autograd.grad(loss, (student, temperature))
    assert loss.item() == pytest.approx(500 * tau, rel=1e-6)
    assert gradients[0].tolist() == [pytest.approx([tau, -tau, 0], abs=1e-6)]
    assert gradients[1].item() == pytest.approx(500, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype):
    student, teacher, tau = STUDENT.to(dtype), TEACHER.to(dtype), torch.tensor(3.0)
    half, wide = ctkd_loss(student, teacher, tau), ctkd_loss(student.float(), teacher.float(), tau)
    assert half.dtype == torch.float32 and half.item() == wide.item()


def test_different_numbers_of_classes_are_refused():
    with pytest.raises(UserError, match=r"shapes \[8, 20\] and \[8, 19\]; both must be"):
        ctkd_loss(STUDENT, TEACHER[:, 1:], torch.tensor(4.0))


def test_lambda_grows_along_half_a_cosine():
    found = [curriculum(epoch, 10, 0.0, 1.0) for epoch in (1, 5, 10, 11, 240)]
    assert found == pytest.approx([(1 - math.cos(math.pi / 10)) / 2, 0.5, 1, 1, 1], rel=1e-12)
    assert curriculum(5, 10, 0.2, 0.6) == pytest.approx(0.4, rel=1e-12)
    assert curriculum(2, 2.5, 0.0, 1.0) == pytest.approx(
        (1 - math.cos(0.8 * math.pi)) / 2, rel=1e-12
    )
    assert curriculum(1, 0, 0.2, 0.6) == 0.6


def test_the_gradient_is_reversed_and_the_value_stays():
    x = formula((3,), "x").requires_grad_()
    y = reversed_gradient(x, 0.3)
    (gradient,) = torch.autograd.grad((y * torch.arange(3)).sum(), x)
    assert torch.equal(y, x)
    torch.testing.assert_close(gradient, -0.3 * torch.arange(3).double())


@pytest.mark.parametrize("epoch, factor", [(1, 0.5), (2, 1.0), (3, 1.0)])
def test_one_step_equals_the_definition(epoch, factor):
    words = "CTKD.CE_WEIGHT 0.5 CTKD.KD_WEIGHT 2 CTKD.TAU_INIT 1.5 CTKD.TAU_RANGE 8"
    distiller = build(*words.split(), "CTKD.LAMBDA_EPOCHS", "2")
    distiller.theta.data.fill_(0.3)

    def tau(theta: float) -> float:
        return 1.5 + 8 / (1 + math.exp(-theta))

    _, losses = distiller(image=torch.zeros(1), target=TARGET, epoch=epoch)
    kd = slow_loss(STUDENT, TEACHER, tau(0.3))
    cross_entropy = -STUDENT.log_softmax(1)[torch.arange(8), TARGET].mean().item()
    assert losses["loss_kd"].item() == pytest.approx(2 * kd, rel=1e-10)
    assert losses["loss_ce"].item() == pytest.approx(0.5 * cross_entropy, rel=1e-12)
    assert {k: v.item() for k, v in distiller.terms.items()} == pytest.approx(
        {"kd": kd, "tau": tau(0.3)}, rel=1e-10
    )

    sum(losses.values()).backward()
    above, below = (slow_loss(STUDENT, TEACHER, tau(0.3 + step)) for step in (1e-5, -1e-5))
    slope = 2 * (above - below) / 2e-5
    assert distiller.theta.grad.item() == pytest.approx(-factor * slope, rel=1e-6)
    assert abs(slope) > 0.1
    assert distiller.student.logits.grad is not None and distiller.teacher.logits.grad is None


def test_the_temperature_learns_what_makes_it_harder_for_the_student():
    distiller = build("CTKD.TAU_RANGE", "4")
    optimizer = torch.optim.SGD([distiller.theta], lr=1.0)
    found = []
    for _ in range(20):
        _, losses = distiller(image=torch.zeros(1), target=TARGET, epoch=10)
        found.append(losses["loss_kd"].item())
        losses["loss_kd"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert found == sorted(found) and found[-1] > found[0] + 0.01


def test_without_a_range_it_is_kd():
    distiller = build("CTKD.TAU_INIT", "4", "CTKD.TAU_RANGE", "0")
    _, losses = distiller(image=torch.zeros(1), target=TARGET, epoch=20)
    assert losses["loss_kd"].item() == pytest.approx(
        0.9 * kd_loss(STUDENT, TEACHER, 4.0).item(), rel=1e-12
    )
    sum(losses.values()).backward()
    assert distiller.theta.grad.item() == 0


def test_the_curriculum_shrinks_with_a_short_schedule():
    short = ("SOLVER.EPOCHS", "60", "SOLVER.SCHEDULE_EPOCHS", "240")
    assert build(*short).node.LAMBDA_EPOCHS == 2.5


def test_it_trains_one_number_more_than_the_student():
    distiller = build()
    assert distiller.get_extra_parameters() == 1
    _, losses = distiller(image=torch.zeros(1), target=TARGET)
    start = 1 + 20 / (1 + math.exp(-1))
    assert distiller.terms["tau"].item() == pytest.approx(start, rel=1e-7)


@pytest.mark.parametrize(
    "key", ["TAU_INIT", "TAU_RANGE", "LAMBDA_MIN", "LAMBDA_MAX", "LAMBDA_EPOCHS", "KD_WEIGHT"]
)
def test_config_values_that_mean_nothing_are_refused(key):
    with pytest.raises(UserError, match=rf"CTKD.{key} is -1(.0)?; allowed: "):
        load_config(None, ["DISTILLER.TYPE", "CTKD", f"CTKD.{key}", "-1"])


def test_a_temperature_of_0_is_refused():
    with pytest.raises(UserError, match="CTKD.TAU_INIT is 0.0; allowed: above 0"):
        load_config(None, ["DISTILLER.TYPE", "CTKD", "CTKD.TAU_INIT", "0"])


def test_defaults_are_the_authors():
    cfg = load_config(None).CTKD
    assert (cfg.CE_WEIGHT, cfg.KD_WEIGHT, cfg.TAU_INIT, cfg.TAU_RANGE) == (0.1, 0.9, 1.0, 20.0)
    assert (cfg.LAMBDA_MIN, cfg.LAMBDA_MAX, cfg.LAMBDA_EPOCHS) == (0.0, 1.0, 10)

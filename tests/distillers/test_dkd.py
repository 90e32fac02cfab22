"""DKD's loss: mdistiller's numbers, an independent version, the relation to KD.

Extremes, warm-up, refusals.
"""

import math

import pytest
import torch
from cases import Fixed
from support.oracles import formula, load
from torch import Tensor

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.distillers.dkd import DKD, dkd_terms, warmup_factor
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.errors import UserError

SHAPE = (8, 100)
STUDENT, TEACHER = 4 * formula(SHAPE, "logits_s"), 4 * formula(SHAPE, "logits_t")
TARGET = torch.floor(50 * (formula((8,), "target") + 1)).long()


def slow_terms(student: Tensor, teacher: Tensor, target: Tensor, tau: float) -> tuple[float, float]:
    """The definition with probabilities in plain Python, one sample and class at a time."""
    tckd = nckd = 0.0
    for z_s, z_t, y in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        p_s, p_t = ([math.exp(v / tau) for v in z] for z in (z_s, z_t))
        p_s, p_t = [v / sum(p_s) for v in p_s], [v / sum(p_t) for v in p_t]
        for a, b in ((p_t[y], p_s[y]), (1 - p_t[y], 1 - p_s[y])):
            tckd += a * math.log(a / b)
        for j in range(len(p_s)):
            if j != y:
                a, b = p_t[j] / (1 - p_t[y]), p_s[j] / (1 - p_s[y])
                nckd += a * math.log(a / b)
    return tau**2 * tckd / len(target), tau**2 * nckd / len(target)


@pytest.mark.parametrize("beta", [2.0, 8.0])
def test_value_and_gradient_equal_mdistillers(beta):
    expected = load("losses")["cases"][f"dkd_a1_b{beta:.0f}_tau4"]
    student = STUDENT.clone().requires_grad_()
    tckd, nckd = dkd_terms(student, TEACHER, TARGET, 4.0)
    loss = tckd + beta * nckd
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    assert gradient.norm().item() == pytest.approx(expected["grad_norms"][0], rel=1e-8)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_both_terms_equal_an_independent_version(tau):
    terms = dkd_terms(STUDENT, TEACHER, TARGET, tau)
    assert [term.item() for term in terms] == pytest.approx(
        slow_terms(STUDENT, TEACHER, TARGET, tau), rel=1e-10
    )


def test_hand_computed():
    # teacher (1/2 | 1/4, 1/4), student (1/3 | 1/2, 1/6), target 0: pairs (1/2, 1/2) and (1/3, 2/3);
    # others (1/2, 1/2), (3/4, 1/4)
    teacher, student = (
        torch.tensor([[0.5, 0.25, 0.25]]).log(),
        torch.tensor([[1 / 3, 1 / 2, 1 / 6]]).log(),
    )
    tckd, nckd = dkd_terms(student, teacher, torch.tensor([0]), 1.0)
    assert tckd.item() == pytest.approx(0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4), rel=1e-5)
    assert nckd.item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-5)


def test_kd_is_tckd_plus_nckd_weighted_by_the_teachers_doubt():
    tau = 4.0
    for i in range(len(TARGET)):
        row = slice(i, i + 1)
        tckd, nckd = dkd_terms(STUDENT[row], TEACHER[row], TARGET[row], tau)
        doubt = 1 - (TEACHER[i] / tau).softmax(0)[TARGET[i]]
        assert (tckd + doubt * nckd).item() == pytest.approx(
            kd_loss(STUDENT[row], TEACHER[row], tau).item(), rel=1e-12
        )


def test_equal_logits_give_zero_with_zero_gradient():
    student = TEACHER.clone().requires_grad_()
    tckd, nckd = dkd_terms(student, TEACHER, TARGET, 4.0)
    (gradient,) = torch.autograd.grad(tckd + 8 * nckd, student)
    assert tckd.item() == nckd.item() == 0
    assert gradient.abs().max() < 1e-15


def test_shifting_a_row_and_permuting_classes_change_nothing():
    expected = [term.item() for term in dkd_terms(STUDENT, TEACHER, TARGET, 4.0)]
    shift = 10 * formula((8, 1), "shift")
    shifted = dkd_terms(STUDENT + shift, TEACHER - shift, TARGET, 4.0)
    assert [term.item() for term in shifted] == pytest.approx(expected, rel=1e-12)
    order = torch.randperm(SHAPE[1], generator=torch.Generator().manual_seed(0))
    permuted = dkd_terms(STUDENT[:, order], TEACHER[:, order], order.argsort()[TARGET], 4.0)
    assert [term.item() for term in permuted] == pytest.approx(expected, rel=1e-12)


def test_gradient_is_that_of_finite_differences():
    student, teacher = (formula((3, 5), key).requires_grad_() for key in "st")
    assert torch.autograd.gradcheck(
        lambda s, t: dkd_terms(s, t, torch.tensor([4, 0, 2]), 4.0), (student, teacher)
    )


@pytest.mark.parametrize(
    "target, expected",
    [  # the student is sure of class 0, the teacher of class 1
        # the student gives two others exp(-500) each and cannot tell them apart
        (0, (500 - math.log(2), math.log(2))),
        (1, (500, 250 - math.log(2))),  # the teacher cannot tell the two others apart
        (2, (0, 500)),  # both give the target nothing
    ],
)
def test_a_logit_gap_of_500_stays_finite_and_exact_at_tau_1(target, expected):
    student = torch.tensor([[500.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 500.0, 0.0]])
    terms = dkd_terms(student, teacher, torch.tensor([target]), 1.0)
    (gradient,) = torch.autograd.grad(sum(terms), student)
    assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-6)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0.4


def test_warmup_grows_linearly_and_may_be_fractional_or_absent():
    assert [warmup_factor(epoch, 20) for epoch in (1, 10, 20, 21, 240)] == [0.05, 0.5, 1, 1, 1]
    assert [warmup_factor(epoch, 2.5) for epoch in (1, 2, 3)] == [0.4, 0.8, 1]
    assert warmup_factor(1, 0) == 1


def test_the_distiller_weighs_its_terms_and_warms_up_on_a_short_schedule():
    words = (
        "DISTILLER.TYPE DKD DKD.CE_WEIGHT 0.5 DKD.ALPHA 3 DKD.BETA 2 DKD.T 5 SOLVER.EPOCHS 30 "
        "SOLVER.SCHEDULE_EPOCHS 240"
    )
    cfg = scaled_config(load_config(None, words.split()))
    assert cfg.DKD.WARMUP == 2.5
    distiller = DKD(Fixed(STUDENT), Fixed(TEACHER), cfg).train()
    tckd, nckd = (term.item() for term in dkd_terms(STUDENT, TEACHER, TARGET, 5.0))
    for epoch, factor in ((1, 0.4), (2, 0.8), (3, 1.0)):
        _, losses = distiller(image=torch.zeros(1), target=TARGET, epoch=epoch)
        assert losses["loss_kd"].item() == pytest.approx(factor * (3 * tckd + 2 * nckd), rel=1e-12)
        assert {k: v.item() for k, v in distiller.terms.items()} == pytest.approx(
            {"tckd": tckd, "nckd": nckd}, rel=1e-12
        )
    cross_entropy = -STUDENT.log_softmax(1)[torch.arange(8), TARGET].mean().item()
    assert losses["loss_ce"].item() == pytest.approx(0.5 * cross_entropy, rel=1e-12)
    sum(losses.values()).backward()
    assert distiller.student.logits.grad is not None and distiller.teacher.logits.grad is None


def test_two_classes_are_refused():
    with pytest.raises(UserError, match="2 classes; allowed: 3 or more"):
        dkd_terms(STUDENT[:, :2], TEACHER[:, :2], TARGET % 2, 4.0)


@pytest.mark.parametrize("value", [-1, 100])
def test_targets_that_are_no_class_are_refused(value):
    target = TARGET.clone()
    target[3] = value
    with pytest.raises(
        UserError, match=f"targets from .*{value}.*; allowed: class numbers from 0 to 99"
    ):
        dkd_terms(STUDENT, TEACHER, target, 4.0)


@pytest.mark.parametrize("target", [TARGET.int(), TARGET.double(), TARGET[:7], TARGET[:, None]])
def test_targets_of_another_type_or_shape_are_refused(target):
    with pytest.raises(UserError, match=r"allowed: torch.int64, shape \[8\]"):
        dkd_terms(STUDENT, TEACHER, target, 4.0)


def test_a_negative_warmup_is_refused():
    with pytest.raises(UserError, match="DKD.WARMUP is -1; allowed: 0 or more"):
        load_config(None, "DISTILLER.TYPE DKD DKD.WARMUP -1".split())


def test_defaults_are_mdistillers():
    cfg = load_config(None).DKD
    assert (cfg.CE_WEIGHT, cfg.ALPHA, cfg.BETA, cfg.T, cfg.WARMUP) == (1.0, 1.0, 8.0, 4.0, 20)

"""RLD's two terms: by hand, an independent version, DKD where the teacher is right.

Labels that the teacher ranks last, ties, extremes, warm-up, refusals.
"""

import math

import pytest
import torch
from cases import Fixed
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.distillers.dkd import dkd_terms
from sdkd_plugin.distillers.rld import RLD, rld_terms
from sdkd_plugin.errors import UserError

SHAPE = (8, 100)
STUDENT, TEACHER = 4 * formula(SHAPE, "logits_s"), 4 * formula(SHAPE, "logits_t")
TARGET = torch.floor(50 * (formula((8,), "target") + 1)).long()
TARGET[0], TARGET[1] = TEACHER[0].argmax(), TEACHER[1].argmin()  # a right answer, a hopeless one


def softmax(values: list[float], tau: float) -> list[float]:
    powers = [math.exp(value / tau) for value in values]
    return [power / sum(powers) for power in powers]


def slow_terms(
    student: Tensor, teacher: Tensor, target: Tensor, alpha_tau: float, tau: float
) -> tuple[float, float]:
    """The definition with probabilities in plain Python, one image at a time."""
    scd = mcd = 0.0
    for z_s, z_t, y in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        q, p = max(softmax(z_t, alpha_tau)), softmax(z_s, alpha_tau)[y]
        scd += q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
        below = [j for j in range(len(z_t)) if z_t[j] < z_t[y]]
        q_below, p_below = (softmax([z[j] for j in below], tau) for z in (z_t, z_s))
        mcd += sum(a * math.log(a / b) for a, b in zip(q_below, p_below, strict=True))
    return alpha_tau**2 * scd / len(target), tau**2 * mcd / len(target)


@pytest.mark.parametrize("alpha_tau, tau", [(1.0, 4.0), (4.0, 4.0), (2.0, 1.0)])
def test_both_terms_equal_an_independent_version(alpha_tau, tau):
    terms = rld_terms(STUDENT, TEACHER, TARGET, alpha_tau, tau)
    assert [term.item() for term in terms] == pytest.approx(
        slow_terms(STUDENT, TEACHER, TARGET, alpha_tau, tau), rel=1e-10
    )


def test_hand_computed():
    # the teacher ranks class 0 above the label 1: confidences (1/2, 1/2) and (1/4, 3/4); below the
    # label stand classes 2 and 3: (1/2, 1/2) and (4/5, 1/5)
    teacher = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    student = torch.tensor([[0.125, 0.25, 0.5, 0.125]]).log()
    scd, mcd = rld_terms(student, teacher, torch.tensor([1]), 1.0, 1.0)
    assert scd.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-5)
    assert mcd.item() == pytest.approx(0.5 * math.log(5 / 8) + 0.5 * math.log(5 / 2), rel=1e-5)


def test_with_a_teacher_that_is_right_it_is_dkd():
    right = TEACHER.argmax(1)
    student = STUDENT.clone().requires_grad_()
    ours, theirs = (
        rld_terms(student, TEACHER, right, 3.0, 3.0),
        dkd_terms(student, TEACHER, right, 3.0),
    )
    for own, other in zip(ours, theirs, strict=True):
        assert own.item() == pytest.approx(other.item(), rel=1e-12)
        gradients = [
            torch.autograd.grad(term, student, retain_graph=True)[0] for term in (own, other)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-15)


def test_a_teacher_that_is_wrong_asks_for_its_confidence_in_the_label():
    """The student that has the teacher's two first classes swapped has nothing left to learn."""
    teacher = torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[2.0, 3.0, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    terms = rld_terms(student, teacher, torch.tensor([1]), 1.0, 4.0)
    (gradient,) = torch.autograd.grad(sum(terms), student)
    assert [term.item() for term in terms] == pytest.approx([0, 0], abs=1e-15)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize(
    "teacher, label",
    [
        ([3.0, 2.0, 1.0, 0.0], 3),  # ranked last
        ([3.0, 2.0, 1.0, 0.0], 2),  # one class below, sure of itself
        ([3.0, 1.0, 1.0, 1.0], 2),  # what ties with the label is not below it
    ],
)
def test_at_most_one_class_below_the_label_gives_no_mcd(teacher, label):
    student = formula((1, 4), "s").requires_grad_()
    teacher = torch.tensor([teacher], dtype=torch.float64)
    _, mcd = rld_terms(student, teacher, torch.tensor([label]), 1.0, 4.0)
    (gradient,) = torch.autograd.grad(mcd, student)
    assert mcd.item() == 0 and gradient.abs().max() == 0


def test_the_classes_above_the_label_get_no_gradient_of_mcd():
    student = STUDENT.clone().requires_grad_()
    _, mcd = rld_terms(student, TEACHER, TARGET, 1.0, 4.0)
    (gradient,) = torch.autograd.grad(mcd, student)
    below = TEACHER < TEACHER.gather(1, TARGET[:, None])
    assert gradient[~below].abs().max() == 0
    assert (gradient[below] != 0).all() and below.sum() > 100


def test_shifting_a_row_and_permuting_classes_change_nothing():
    expected = [term.item() for term in rld_terms(STUDENT, TEACHER, TARGET, 1.0, 4.0)]
    shift = 10 * formula((8, 1), "shift")
    shifted = rld_terms(STUDENT + shift, TEACHER - shift, TARGET, 1.0, 4.0)
    assert [term.item() for term in shifted] == pytest.approx(expected, rel=1e-12)
    order = torch.randperm(SHAPE[1], generator=torch.Generator().manual_seed(0))
    permuted = rld_terms(STUDENT[:, order], TEACHER[:, order], order.argsort()[TARGET], 1.0, 4.0)
    assert [term.item() for term in permuted] == pytest.approx(expected, rel=1e-12)


def test_gradient_is_that_of_finite_differences():
    student, teacher = (formula((3, 5), key).requires_grad_() for key in "st")
    assert torch.autograd.gradcheck(
        lambda s, t: rld_terms(s, t, torch.tensor([4, 0, 2]), 1.5, 4.0), (student, teacher)
    )


@pytest.mark.parametrize(
    "label, expected",
    [  # the student is sure of class 0, the teacher of class 1, and it ranks 1, 2, 0, 3
        (0, (0, 0)),  # as sure as the teacher, of the label; one class below
        (1, (500, None)),
        (2, (500, None)),
        (3, (500, 0)),
    ],
)
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_a_logit_gap_of_500_stays_finite_and_exact(label, expected, tau):
    student = torch.tensor([[500.0, 0.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 500.0, 2.0, 0.0]])
    terms = rld_terms(student, teacher, torch.tensor([label]), tau, tau)
    (gradient,) = torch.autograd.grad(sum(terms), student)

    scd, mcd = expected
    if mcd is None:  # the student gives class 0 everything
        below = torch.tensor([[0, 2, 3], [0, 3]][label - 1])
        q = (teacher[0, below].double() / tau).softmax(0)
        mcd = tau**2 * (q * q.log() + q * torch.tensor([0.0, *[500.0] * (len(q) - 1)]) / tau).sum()
    assert [term.item() for term in terms] == pytest.approx([tau * scd, float(mcd)], rel=1e-6)
    assert torch.isfinite(gradient).all()
    assert label == 0 or gradient.abs().max() > 0.4 * tau


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype):
    student, teacher = STUDENT.to(dtype), TEACHER.to(dtype)
    half = rld_terms(student, teacher, TARGET, 1.0, 4.0)
    assert all(term.dtype == torch.float32 for term in half)
    wide = rld_terms(student.float(), teacher.float(), TARGET, 1.0, 4.0)
    assert [term.item() for term in half] == [term.item() for term in wide]


def test_the_distiller_weighs_its_terms_and_warms_up_on_a_short_schedule():
    words = (
        "DISTILLER.TYPE RLD RLD.CE_WEIGHT 0.5 RLD.ALPHA 3 RLD.BETA 2 RLD.ALPHA_T 2 RLD.T 5 "
        "SOLVER.EPOCHS 30 SOLVER.SCHEDULE_EPOCHS 240"
    )
    cfg = scaled_config(load_config(None, words.split()))
    assert cfg.RLD.WARMUP == 2.5
    distiller = RLD(Fixed(STUDENT), Fixed(TEACHER), cfg).train()
    scd, mcd = slow_terms(STUDENT, TEACHER, TARGET, 2.0, 5.0)
    for epoch, factor in ((1, 0.4), (2, 0.8), (3, 1.0)):
        _, losses = distiller(image=torch.zeros(1), target=TARGET, epoch=epoch)
        assert losses["loss_kd"].item() == pytest.approx(factor * (3 * scd + 2 * mcd), rel=1e-10)
        assert {k: v.item() for k, v in distiller.terms.items()} == pytest.approx(
            {"scd": scd, "mcd": mcd}, rel=1e-10
        )
    cross_entropy = -STUDENT.log_softmax(1)[torch.arange(8), TARGET].mean().item()
    assert losses["loss_ce"].item() == pytest.approx(0.5 * cross_entropy, rel=1e-12)
    sum(losses.values()).backward()
    assert distiller.student.logits.grad is not None and distiller.teacher.logits.grad is None


def test_two_classes_are_refused():
    with pytest.raises(UserError, match="RLD got logits for 2 classes; allowed: 3 or more"):
        rld_terms(STUDENT[:, :2], TEACHER[:, :2], TARGET % 2, 1.0, 4.0)


@pytest.mark.parametrize("value", [-1, 100])
def test_targets_that_are_no_class_are_refused(value):
    target = TARGET.clone()
    target[3] = value
    with pytest.raises(
        UserError, match=f"RLD got targets from .*{value}.*; allowed: class numbers"
    ):
        rld_terms(STUDENT, TEACHER, target, 1.0, 4.0)


@pytest.mark.parametrize("target", [TARGET.int(), TARGET[:7]])
def test_targets_of_another_type_or_shape_are_refused(target):
    with pytest.raises(
        UserError, match=r"RLD got targets of .*; allowed: torch.int64, shape \[8\]"
    ):
        rld_terms(STUDENT, TEACHER, target, 1.0, 4.0)


@pytest.mark.parametrize("alpha_tau, tau", [(0.0, 4.0), (1.0, 0.0), (-1.0, 4.0)])
def test_temperatures_that_are_not_above_0_are_refused(alpha_tau, tau):
    with pytest.raises(UserError, match="temperature tau is .*; allowed: above 0"):
        rld_terms(STUDENT, TEACHER, TARGET, alpha_tau, tau)


@pytest.mark.parametrize("key, value", [("WARMUP", -1), ("ALPHA_T", 0), ("T", 0), ("BETA", -1)])
def test_config_values_that_mean_nothing_are_refused(key, value):
    with pytest.raises(UserError, match=rf"RLD.{key} is {value}(.0)?; allowed: "):
        load_config(None, ["DISTILLER.TYPE", "RLD", f"RLD.{key}", str(value)])


def test_defaults_are_the_authors():
    cfg = load_config(None).RLD
    assert (cfg.CE_WEIGHT, cfg.ALPHA, cfg.BETA, cfg.ALPHA_T, cfg.T) == (1.0, 1.0, 8.0, 1.0, 4.0)
    assert cfg.WARMUP == 20

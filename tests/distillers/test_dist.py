"""DIST's two relations: by hand, an independent version, limits, extremes, refusals."""

import math
import statistics

import pytest
import torch
from cases import Fixed
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.dist import DIST, EPS, dist_terms, pearson
from sdkd_plugin.errors import UserError

SHAPE = (8, 20)
STUDENT, TEACHER = 4 * formula(SHAPE, "logits_s"), 4 * formula(SHAPE, "logits_t")
TARGET = torch.floor(10 * (formula((8,), "target") + 1)).long()


def softmax(values: list[float], tau: float) -> list[float]:
    powers = [math.exp(value / tau) for value in values]
    return [power / sum(powers) for power in powers]


def slow_pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = statistics.fmean(a), statistics.fmean(b)
    pairs = [(x - mean_a, y - mean_b) for x, y in zip(a, b, strict=True)]
    lengths = [math.sqrt(sum(pair[side] ** 2 for pair in pairs)) for side in (0, 1)]
    return sum(x * y for x, y in pairs) / (lengths[0] * lengths[1] + EPS)


def slow_terms(student: Tensor, teacher: Tensor, tau: float) -> tuple[float, float]:
    """The definition one row and one column at a time, in plain Python."""
    p, q = ([softmax(z, tau) for z in logits.tolist()] for logits in (student, teacher))
    rows = [slow_pearson(a, b) for a, b in zip(p, q, strict=True)]
    columns = [slow_pearson([a[k] for a in p], [b[k] for b in q]) for k in range(student.shape[1])]
    return tau**2 * (1 - statistics.fmean(rows)), tau**2 * (1 - statistics.fmean(columns))


def test_correlation_by_hand():
    a = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    b = torch.tensor([[2.0, 4.0, 6.0], [3.0, 2.0, 1.0], [0.0, 1.0, 0.0], [1.0, 2.0, 3.0]])
    # centred (2, -1, -1) / 3 and (-1, 2, -1) / 3: product -3, squared lengths 6
    assert pearson(a, b).tolist() == pytest.approx([1, -1, -0.5, 0], abs=1e-6)


def test_correlation_is_that_of_pythons_statistics():
    pairs = zip(STUDENT.tolist(), TEACHER.tolist(), strict=True)
    expected = [statistics.correlation(a, b) for a, b in pairs]
    assert pearson(STUDENT, TEACHER).tolist() == pytest.approx(expected, rel=1e-8)


def test_hand_computed_two_images_of_two_classes():
    """Two numbers correlate fully, one way or the other: the images 1 and -1, both classes 1."""
    student = 2 * torch.tensor([[0.75, 0.25], [0.6, 0.4]], dtype=torch.float64).log()
    teacher = 2 * torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64).log()
    inter, intra = dist_terms(student, teacher, 2.0)
    assert inter.item() == pytest.approx(4 * (1 - 0), rel=1e-5)
    assert intra.item() == pytest.approx(0, abs=1e-5)
    against, _ = dist_terms(student, -teacher, 2.0)  # -1 and 1
    assert against.item() == pytest.approx(4, rel=1e-5)
    wrong = dist_terms(student, teacher.flip(0), 2.0)  # the images' order alone
    assert [term.item() for term in wrong] == pytest.approx([4, 8], rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_both_terms_equal_an_independent_version(tau):
    terms = dist_terms(STUDENT, TEACHER, tau)
    assert [term.item() for term in terms] == pytest.approx(
        slow_terms(STUDENT, TEACHER, tau), rel=1e-10
    )


def test_equal_logits_give_zero_with_zero_gradient():
    student = TEACHER.clone().requires_grad_()
    terms = dist_terms(student, TEACHER, 4.0)
    (gradient,) = torch.autograd.grad(sum(terms), student)
    assert [term.item() for term in terms] == pytest.approx([0, 0], abs=1e-4)  # EPS
    assert gradient.abs().max() < 1e-4


def test_large_tau_correlates_the_logits_themselves():
    """softmax(z / tau) K is 1 + (z - mean z) / tau and less: correlation does not see the rest."""
    tau = 1e3
    inter, _ = dist_terms(STUDENT, TEACHER, tau)
    pairs = zip(STUDENT.tolist(), TEACHER.tolist(), strict=True)
    expected = 1 - statistics.fmean(statistics.correlation(a, b) for a, b in pairs)
    assert inter.item() / tau**2 == pytest.approx(expected, abs=2e-2)


def test_shifting_rows_and_permuting_images_and_classes_change_nothing():
    expected = [term.item() for term in dist_terms(STUDENT, TEACHER, 4.0)]
    shift = 10 * formula((8, 1), "shift")
    images, classes = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in SHAPE)
    for change in (lambda z: z + shift, lambda z: z[images], lambda z: z[:, classes]):
        changed = dist_terms(change(STUDENT), change(TEACHER), 4.0)
        assert [term.item() for term in changed] == pytest.approx(expected, rel=1e-9)


def test_the_batch_is_part_of_the_intra_class_relation_alone():
    whole = dist_terms(STUDENT, TEACHER, 4.0)
    halves = [dist_terms(STUDENT[part], TEACHER[part], 4.0) for part in (slice(4), slice(4, 8))]
    means = [statistics.fmean(half[at].item() for half in halves) for at in (0, 1)]
    assert means[0] == pytest.approx(whole[0].item(), rel=1e-12)
    assert means[1] != pytest.approx(whole[1].item(), rel=1e-3)
    assert DIST.needs_whole_batch


def test_one_image_has_no_intra_class_relation():
    student = STUDENT[:1].clone().requires_grad_()
    _, intra = dist_terms(student, TEACHER[:1], 4.0)
    (gradient,) = torch.autograd.grad(intra, student)
    assert intra.item() == 16 and gradient.abs().max() == 0


def test_gradient_is_that_of_finite_differences():
    student, teacher = (formula((3, 5), key).requires_grad_() for key in "st")
    assert torch.autograd.gradcheck(lambda s, t: dist_terms(s, t, 2.0), (student, teacher))


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_a_logit_gap_of_500_and_equal_logits_stay_finite(tau):
    student = torch.tensor([[500.0, 0.0, 0.0], [1.0, 1.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 500.0, 0.0], [0.0, 500.0, 0.0]])
    inter, intra = dist_terms(student, teacher, tau)
    (gradient,) = torch.autograd.grad(inter + intra, student)
    # one-hot against another: -1/2; equal ones correlate with nothing: 0
    assert inter.item() == pytest.approx(tau**2 * (1 + 0.25), rel=1e-6)
    assert torch.isfinite(intra) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype):
    student, teacher = STUDENT.to(dtype), TEACHER.to(dtype)
    half = dist_terms(student, teacher, 4.0)
    assert all(term.dtype == torch.float32 for term in half)
    wide = dist_terms(student.float(), teacher.float(), 4.0)
    assert [term.item() for term in half] == [term.item() for term in wide]


def test_the_distiller_weighs_its_terms_and_detaches_the_teacher():
    words = "DISTILLER.TYPE DIST DIST.CE_WEIGHT 0.5 DIST.BETA 3 DIST.GAMMA 0.7 DIST.TAU 2"
    cfg = load_config(None, words.split())
    distiller = DIST(Fixed(STUDENT), Fixed(TEACHER), cfg).train()
    inter, intra = slow_terms(STUDENT, TEACHER, 2.0)
    _, losses = distiller(image=torch.zeros(1), target=TARGET)
    assert losses["loss_kd"].item() == pytest.approx(3 * inter + 0.7 * intra, rel=1e-9)
    assert {k: v.item() for k, v in distiller.terms.items()} == pytest.approx(
        {"inter": inter, "intra": intra}, rel=1e-9
    )
    cross_entropy = -STUDENT.log_softmax(1)[torch.arange(8), TARGET].mean().item()
    assert losses["loss_ce"].item() == pytest.approx(0.5 * cross_entropy, rel=1e-12)
    sum(losses.values()).backward()
    assert distiller.student.logits.grad is not None and distiller.teacher.logits.grad is None


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_a_temperature_not_above_zero_is_refused(tau):
    with pytest.raises(UserError, match=f"tau is {tau}; allowed: above 0"):
        dist_terms(STUDENT, TEACHER, tau)


def test_a_teacher_with_other_classes_is_refused():
    with pytest.raises(UserError, match=r"shapes \[8, 20\] and \[8, 10\]"):
        dist_terms(STUDENT, TEACHER[:, :10], 4.0)


@pytest.mark.parametrize("key, value", [("TAU", 0), ("BETA", -1), ("GAMMA", -1)])
def test_config_values_that_mean_nothing_are_refused(key, value):
    with pytest.raises(UserError, match=rf"DIST.{key} is {value}(.0)?; allowed: "):
        load_config(None, ["DISTILLER.TYPE", "DIST", f"DIST.{key}", str(value)])


def test_defaults_are_the_authors_for_cifar100():
    cfg = load_config(None).DIST
    assert (cfg.CE_WEIGHT, cfg.BETA, cfg.GAMMA, cfg.TAU) == (1.0, 2.0, 2.0, 4.0)

"""LSKD's z-score: by hand, an independent version, what it takes away, and every method's key."""

import inspect
import math
import re
import statistics
import sys

import pytest
import torch
from cases import CASES, Case, Fixed
from support.loop import batch, make_loop
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.dkd import DKD
from sdkd_plugin.distillers.kd import KD, kd_loss
from sdkd_plugin.distillers.lskd import kl_logits, standardised
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS, Entry

SHAPE = (8, 20)
STUDENT, TEACHER = 4 * formula(SHAPE, "logits_s"), 4 * formula(SHAPE, "logits_t")
TARGET = torch.floor(10 * (formula((8,), "target") + 1)).long()


def slow_rows(logits: Tensor) -> list[list[float]]:
    """The definition one number at a time, by Python's own sample deviation."""
    rows = []
    for z in logits.tolist():
        mean, deviation = statistics.fmean(z), statistics.stdev(z)
        rows.append([(value - mean) / (1e-7 + deviation) for value in z])
    return rows


def slow_kl(student: list[list[float]], teacher: list[list[float]], tau: float) -> float:
    """tau^2 KL with probabilities in plain Python, mean over the images."""
    total = 0.0
    for z_s, z_t in zip(student, teacher, strict=True):
        p_s, p_t = ([math.exp(v / tau) for v in z] for z in (z_s, z_t))
        for a, b in zip(p_t, p_s, strict=True):
            total += a / sum(p_t) * math.log(a / sum(p_t) / (b / sum(p_s)))
    return tau**2 * total / len(student)


def test_hand_computed():
    # mean 2, squares 4 + 0 + 4 over K - 1 = 2: deviation 2; then mean 1, deviation sqrt(2)
    rows = standardised(torch.tensor([[0.0, 2.0, 4.0]], dtype=torch.float64))
    torch.testing.assert_close(rows, torch.tensor([[-1.0, 0.0, 1.0]]).double(), rtol=0, atol=1e-7)
    pair = standardised(torch.tensor([[2.0, 0.0]], dtype=torch.float64))
    half = math.sqrt(0.5)
    torch.testing.assert_close(pair, torch.tensor([[half, -half]]).double(), rtol=0, atol=1e-7)


def test_eps_is_added_to_the_deviation():
    # deviation 1e-7, as large as EPS: half of what is expected otherwise
    rows = standardised(1e-7 * torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64))
    assert rows.tolist()[0] == pytest.approx([-0.5, 0.0, 0.5], rel=1e-9)


def test_it_equals_an_independent_version():
    expected = torch.tensor(slow_rows(STUDENT), dtype=torch.float64)
    torch.testing.assert_close(standardised(STUDENT), expected, rtol=1e-12, atol=1e-14)


def test_gradient_is_that_of_finite_differences_through_mean_and_deviation():
    student, teacher = (formula((3, 5), key).requires_grad_() for key in "st")
    assert torch.autograd.gradcheck(standardised, (student,))
    assert torch.autograd.gradcheck(
        lambda s, t: kd_loss(*kl_logits(True, s, t), 2.0), (student, teacher)
    )


def test_the_kl_asks_neither_for_another_mean_nor_for_another_scale():
    """Adding to a row or stretching it changes nothing, so neither has a part in the gradient."""
    student = STUDENT.clone().requires_grad_()
    loss = kd_loss(*kl_logits(True, student, TEACHER), 2.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.sum(1).abs().max() < 1e-15
    centred = STUDENT - STUDENT.mean(1, keepdim=True)
    assert (gradient * centred).sum(1).abs().max() < 1e-7  # EPS
    assert gradient.abs().max() > 1e-3

    moved = kd_loss(*kl_logits(True, 3 * STUDENT + 5, 0.2 * TEACHER - 1), 2.0)
    assert moved.item() == pytest.approx(loss.item(), rel=1e-6)


def test_a_student_that_is_the_teacher_stretched_has_nothing_to_learn():
    student = (0.3 * TEACHER + 2).requires_grad_()
    loss = kd_loss(*kl_logits(True, student, TEACHER), 2.0)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-6
    assert kd_loss(*kl_logits(False, student, TEACHER), 2.0).item() > 0.1


def test_constant_rows_are_zero_and_finite():
    student = torch.full((2, 5), 3.0, requires_grad=True)
    rows = standardised(student)
    assert rows.abs().max() == 0
    kd_loss(rows, TEACHER[:2, :5].float(), 2.0).backward()
    assert torch.isfinite(student.grad).all()


def test_switched_off_the_logits_are_the_same_objects():
    seen = kl_logits(False, STUDENT, TEACHER)
    assert seen[0] is STUDENT and seen[1] is TEACHER


def test_half_precision_is_widened():
    half = STUDENT.half()
    assert standardised(half).dtype == torch.float32
    torch.testing.assert_close(standardised(half), standardised(half.float()), rtol=0, atol=0)


def test_one_class_is_refused():
    with pytest.raises(UserError, match="LOGIT_STANDARD got logits for 1 class; allowed: 2 or"):
        standardised(STUDENT[:, :1])


def test_kd_with_the_published_setting():
    words = "KD.LOGIT_STANDARD True KD.TEMPERATURE 2 KD.LOSS.CE_WEIGHT 0.1 KD.LOSS.KD_WEIGHT 9"
    cfg = load_config(None, ["DISTILLER.TYPE", "KD", *words.split()])
    distiller = KD(Fixed(STUDENT.clone()), Fixed(TEACHER), cfg).train()
    _, losses = distiller(image=torch.zeros(1), target=TARGET)
    expected = 9 * slow_kl(slow_rows(STUDENT), slow_rows(TEACHER), 2.0)
    assert losses["loss_kd"].item() == pytest.approx(expected, rel=1e-9)
    # the cross entropy sees the logits as they are
    cross_entropy = -STUDENT.log_softmax(1)[torch.arange(8), TARGET].mean().item()
    assert losses["loss_ce"].item() == pytest.approx(0.1 * cross_entropy, rel=1e-12)


def test_dkd_splits_the_standardised_kl():
    """With BETA 1 - p_y of the teacher for a single image DKD is KD, both standardised."""
    student, teacher = STUDENT[:1].clone(), TEACHER[:1]
    q = torch.softmax(standardised(teacher) / 2, 1)[0, TARGET[0]].item()
    words = f"DKD.LOGIT_STANDARD True DKD.T 2 DKD.ALPHA 1 DKD.BETA {1 - q!r} DKD.WARMUP 0"
    cfg = load_config(None, ["DISTILLER.TYPE", "DKD", *words.split()])
    _, losses = DKD(Fixed(student), Fixed(teacher), cfg).train()(
        image=torch.zeros(1), target=TARGET[:1]
    )
    expected = slow_kl(slow_rows(student), slow_rows(teacher), 2.0)
    assert losses["loss_kd"].item() == pytest.approx(expected, rel=1e-9)


# --- every method with a KL of logits

# what makes the KL a part of the last phase's loss, and leaves nothing else that sees the logits
WITH_KL = {
    "SRRL": {"SRRL.SR_WEIGHT": 0.0},
    "FITNET": {"FITNET.LOSS.KD_WEIGHT": 1.0},
    "AB": {"AB.LOSS.KD_WEIGHT": 1.0},
    "FSP": {"FSP.LOSS.KD_WEIGHT": 1.0},
    "NORM": {"NORM.LOGIT_NORM": False},
    "MLLD": {"MLLD.BATCH_WEIGHT": 0.0, "MLLD.CLASS_WEIGHT": 0.0},
}
STANDARD = [case for case in CASES if "LOGIT_STANDARD" in METHODS[case.name].info.get("config", {})]


def loss_kd(case: Case, standard: bool, stretched: str = "") -> float:
    """loss_kd of the last phase's first step in float64, where one network's z may be 3 z + 5."""
    key = f"{case.name}.LOGIT_STANDARD"
    overrides = {**case.overrides, **WITH_KL.get(case.name, {}), key: standard}
    loop = make_loop(Case(case.name, overrides))
    loop.distiller.double()
    loop.enter(loop.phases[-1])
    if stretched:
        head = getattr(loop.distiller, stretched).fc  # both are ResNets
        with torch.no_grad():  # SDD reads the weights, too
            head.weight.mul_(3)
            head.bias.mul_(3).add_(5)
    data = batch(loop.distiller, 0)
    wide = {key: value.double() for key, value in data.items() if value.is_floating_point()}
    _, losses = loop.distiller(**{**data, **wide}, epoch=1)
    return losses["loss_kd"].item()


@pytest.mark.parametrize("case", STANDARD, ids=lambda case: case.name)
def test_every_methods_kl_sees_both_networks_standardised(case):
    assert not METHODS[case.name].info["config"]["LOGIT_STANDARD"]
    off, on = loss_kd(case, False), loss_kd(case, True)
    assert on != pytest.approx(off, rel=1e-3)
    for network in ("student", "teacher"):
        assert loss_kd(case, False, network) != pytest.approx(off, rel=1e-3)
        assert loss_kd(case, True, network) == pytest.approx(on, rel=1e-5)


def has_kl(entry: Entry) -> bool:
    """Whether the file of a method, or of a class it is made of, has a KL."""
    files = {cls.__module__ for cls in entry.build.__mro__ if "distillers" in cls.__module__}
    return any(
        re.search(r"\b(kd_loss|kl_div)\(", inspect.getsource(sys.modules[file])) for file in files
    )


def test_every_method_with_a_kl_of_logits_has_the_key():
    # NORMKD's temperature is the deviation of the logits: they are standardised already
    wanted = {entry.name for entry in METHODS if has_kl(entry)} - {"NORMKD"}
    assert wanted == {case.name for case in STANDARD} and len(wanted) >= 17

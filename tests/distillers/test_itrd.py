"""ITRD: both losses by hand and by an independent version, limits, dead channels, the embedding."""

import math

import pytest
import torch
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.itrd import ITRD, correlation_loss, mutual_loss
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

N, D = 6, 5
STUDENT, TEACHER = 3 * formula((N, D), "student") + 1, 2 * formula((N, D), "teacher")


def build(*words: str, student: str = "resnet8", teacher: str = "resnet14") -> ITRD:
    with torch_seeded(0, "nets"):
        nets = build_model(student, 10), build_model(teacher, 10)
        return ITRD(*nets, load_config(None, ["DISTILLER.TYPE", "ITRD", *words])).train()


def slow_correlation(student: Tensor, teacher: Tensor, alpha: float) -> float:
    """The definition in plain Python, one channel at a time."""
    total, n = 0.0, len(student)
    for x, y in zip(student.T.tolist(), teacher.T.tolist(), strict=True):
        x, y = ([v - sum(z) / n for v in z] for z in (x, y))
        var_x, var_y = (sum(v * v for v in z) / (n - 1) for z in (x, y))
        product = sum(a * b for a, b in zip(x, y, strict=True)) / n
        c = product / math.sqrt(var_x * var_y) if var_x * var_y else 0.0
        total += abs(c - 1) ** (2 * alpha)
    return math.log2(total)


def slow_mutual(student: Tensor, teacher: Tensor) -> float:
    """The definition in plain Python, one pair of images at a time."""

    def cosine(x: list[float], y: list[float]) -> float:
        return sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)

    total, n = 0.0, len(student)
    own, theirs = student.tolist(), teacher.tolist()
    for i in range(n):
        for j in range(n):
            g, h = cosine(own[i], own[j]), cosine(theirs[i], theirs[j])
            total += (g / n) ** 2 - (g * h / n) ** 2  # both traces are n
    return total


def test_hand_computed():
    # of two images only the sign counts: c = 1/2 and -1/2, so (1/2)^2 + (3/2)^2 = 5/2
    student, teacher = (
        torch.tensor([[0.0, 0.0], [1.0, 2.0]]),
        torch.tensor([[1.0, 0.0], [3.0, -5.0]]),
    )
    assert correlation_loss(student, teacher, 1.0).item() == pytest.approx(math.log2(2.5), rel=1e-6)
    # cosines 1/sqrt(2) and 0: (2 + 2/2) / 4 - 2 / 4
    student, teacher = (
        torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
        torch.tensor([[3.0, 0.0], [0.0, 1.0]]),
    )
    assert mutual_loss(student, teacher).item() == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.01, 1.5])
def test_the_correlation_equals_an_independent_version(alpha):
    assert correlation_loss(STUDENT, TEACHER, alpha).item() == pytest.approx(
        slow_correlation(STUDENT, TEACHER, alpha), rel=1e-10
    )


def test_the_mutual_information_equals_an_independent_version_also_of_unequal_channels():
    for teacher in (TEACHER, formula((N, 3), "narrow")):
        assert mutual_loss(STUDENT, teacher).item() == pytest.approx(
            slow_mutual(STUDENT, teacher), rel=1e-10
        )


def test_gradient_is_that_of_finite_differences():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: correlation_loss(s, t, 1.3), (student, teacher))
    assert torch.autograd.gradcheck(mutual_loss, (student, teacher))


def test_the_teachers_own_features_are_the_least_with_zero_gradient():
    student = TEACHER.clone().requires_grad_()
    loss = correlation_loss(student, TEACHER, 1.01)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(math.log2(D) - 2.02 * math.log2(N), rel=1e-10)
    assert gradient.abs().max() < 1e-12
    opposite = correlation_loss(-TEACHER, TEACHER, 1.01).item()
    assert opposite == pytest.approx(math.log2(D) + 2.02 * math.log2(2 - 1 / N), rel=1e-10)


def test_scale_and_shift_of_a_channel_do_not_matter_to_the_correlation():
    expected = correlation_loss(STUDENT, TEACHER, 1.01).item()
    scaled = (2 + formula((D,), "scale")) * STUDENT + 9 * formula((D,), "shift")
    assert correlation_loss(scaled, TEACHER, 1.01).item() == pytest.approx(expected, rel=1e-10)


def test_a_teacher_that_sees_all_images_alike_has_nothing_to_say():
    student = STUDENT.clone().requires_grad_()
    alike = (2 + formula((N, 1), "length")) * formula((1, D), "direction")
    loss = mutual_loss(student, alike)
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(0, abs=1e-15) and gradient.abs().max() < 1e-15


def test_length_of_a_feature_and_order_of_channels_do_not_matter_to_the_mutual_information():
    expected = mutual_loss(STUDENT, TEACHER).item()
    lengths = 2 + formula((N, 1), "length")
    found = mutual_loss((lengths * STUDENT)[:, [3, 1, 0, 4, 2]], TEACHER / lengths).item()
    assert found == pytest.approx(expected, rel=1e-10)


def test_dead_channels_of_the_teacher_have_correlation_0_and_no_gradient():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone()
    teacher[:, [1, 3]] = torch.tensor([0.0, 0.7]).double()
    loss = correlation_loss(student, teacher, 1.5)
    (gradient,) = torch.autograd.grad(loss, student)
    alive = [0, 2, 4]
    rest = 2 ** slow_correlation(STUDENT[:, alive], TEACHER[:, alive], 1.5)
    assert loss.item() == pytest.approx(math.log2(rest + 2), rel=1e-10)
    assert gradient[:, [1, 3]].abs().max() == 0 and gradient[:, alive].abs().max() > 0.01


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_features_that_are_the_same_for_all_images_stay_finite(value):
    student = torch.full((N, D), value, requires_grad=True)
    teacher = TEACHER.float()
    losses = correlation_loss(student, teacher, 1.01), mutual_loss(student, teacher)
    (gradient,) = torch.autograd.grad(sum(losses), student)
    assert losses[0].item() == pytest.approx(math.log2(D), rel=1e-5)
    assert torch.isfinite(losses[1]) and torch.isfinite(gradient).all()
    assert value or losses[1].item() == 0


def test_a_single_image_says_nothing():
    student = STUDENT[:1].clone().requires_grad_()
    losses = correlation_loss(student, TEACHER[:1], 1.01), mutual_loss(student, TEACHER[:1])
    (gradient,) = torch.autograd.grad(sum(losses), student)
    assert losses[0].item() == pytest.approx(math.log2(D)) and losses[1].item() == pytest.approx(0)
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("scale", [1e-3, 500.0])
def test_small_and_large_features_stay_finite_and_exact(scale):
    student = (scale * STUDENT).float().requires_grad_()
    teacher = (scale * TEACHER).float()
    losses = correlation_loss(student, teacher, 1.01), mutual_loss(student, teacher)
    (gradient,) = torch.autograd.grad(sum(losses), student)
    expected = slow_correlation(STUDENT, TEACHER, 1.01), slow_mutual(STUDENT, TEACHER)
    assert [loss.item() for loss in losses] == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(gradient).all()


def test_a_high_order_does_not_underflow():
    student = TEACHER.float().requires_grad_()
    loss = correlation_loss(student, TEACHER.float(), 100.0)  # 6^-200 is 0 in float32
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(math.log2(D) - 200 * math.log2(N), rel=1e-4)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype):
    student, teacher = STUDENT.to(dtype), TEACHER.to(dtype)
    for half, wide in (
        (
            correlation_loss(student, teacher, 1.01),
            correlation_loss(student.float(), teacher.float(), 1.01),
        ),
        (mutual_loss(student, teacher), mutual_loss(student.float(), teacher.float())),
    ):
        assert half.dtype == torch.float32 and half.item() == wide.item()


def test_the_products_keep_float32_under_autocast():
    distiller = build()
    own, goal = (formula((8, 64), key).float() for key in ("own", "goal"))
    distiller.student.forward = lambda image: (torch.zeros(8, 10), {"pooled_feat": own})
    distiller.teacher.forward = lambda image: (torch.zeros(8, 10), {"pooled_feat": goal})
    data = {"image": torch.zeros(8, 3, 8, 8), "target": torch.arange(8)}
    expected = distiller(**data)[1]["loss_kd"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert distiller.embed(own).dtype == torch.bfloat16  # the test is about something
        assert torch.equal(distiller(**data)[1]["loss_kd"], expected)


def slow_step(distiller: ITRD, image: Tensor, alpha: float) -> tuple[float, float]:
    """Both losses of a step from the networks' pooled features."""
    own = distiller.student(image)[1]["pooled_feat"]
    goal = distiller.teacher(image)[1]["pooled_feat"]
    embedded = own @ distiller.embed.weight.T + distiller.embed.bias
    compared = own if own.shape == goal.shape else embedded
    return slow_correlation(embedded, goal, alpha), slow_mutual(compared, goal)


@pytest.mark.parametrize("teacher", ["resnet14", "resnet8x4"])
def test_one_step_equals_the_definition(teacher):
    words = "ITRD.CE_WEIGHT 0.5 ITRD.CORR_WEIGHT 3 ITRD.MUTUAL_WEIGHT 0.7 ITRD.ALPHA 1.3"
    distiller = build(*words.split(), teacher=teacher).double()
    image, target = formula((4, 3, 8, 8), "image"), torch.arange(4)
    correlation, mutual = slow_step(distiller, image, 1.3)
    logits, losses = distiller(image=image, target=target)
    assert losses["loss_kd"].item() == pytest.approx(3 * correlation + 0.7 * mutual, rel=1e-8)
    cross_entropy = -logits.log_softmax(1)[target, target].mean().item()
    assert losses["loss_ce"].item() == pytest.approx(0.5 * cross_entropy, rel=1e-12)
    assert {k: v.item() for k, v in distiller.terms.items()} == pytest.approx(
        {"itrd_corr": correlation, "itrd_mutual": mutual}, rel=1e-8
    )
    sum(losses.values()).backward()
    assert all(p.grad is None for p in distiller.teacher.parameters())
    assert distiller.embed.weight.grad.abs().max() > 0


@pytest.mark.parametrize("teacher, learns", [("resnet14", False), ("resnet8x4", True)])
def test_the_mutual_information_sees_the_embedding_only_of_unequal_channels(teacher, learns):
    distiller = build("ITRD.CORR_WEIGHT", "0", teacher=teacher)
    _, losses = distiller(image=formula((4, 3, 8, 8), "image").float(), target=torch.arange(4))
    losses["loss_kd"].backward()
    assert (distiller.embed.weight.grad.abs().max() > 0) == learns
    assert distiller.student.conv1.weight.grad.abs().max() > 0


def test_it_adds_a_linear_layer_from_channels_to_channels():
    assert build().get_extra_parameters() == 64 * 64 + 64
    assert build(teacher="resnet8x4").get_extra_parameters() == 64 * 256 + 256


def test_orders_and_shapes_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match="ITRD's order alpha is 0.0; allowed: above 0"):
        correlation_loss(STUDENT, TEACHER, 0.0)
    with pytest.raises(UserError, match=r"shapes \[6, 5\] and \[6, 4\]; both must be \[N, D\]"):
        correlation_loss(STUDENT, TEACHER[:, :4], 1.01)
    with pytest.raises(UserError, match=r"shapes \[6, 5\] and \[4, 5\]; .* the same N images"):
        mutual_loss(STUDENT, TEACHER[:4])


@pytest.mark.parametrize(
    "key, value",
    [("ALPHA", "0"), ("CE_WEIGHT", "-1"), ("CORR_WEIGHT", "-1"), ("MUTUAL_WEIGHT", "-1")],
)
def test_config_values_that_mean_nothing_are_refused(key, value):
    with pytest.raises(UserError, match=rf"ITRD.{key} is {value}(.0)?; allowed: "):
        load_config(None, ["DISTILLER.TYPE", "ITRD", f"ITRD.{key}", value])


def test_defaults_are_the_authors_example():
    cfg = load_config(None).ITRD
    assert (cfg.CE_WEIGHT, cfg.CORR_WEIGHT, cfg.MUTUAL_WEIGHT, cfg.ALPHA) == (1.0, 2.0, 1.0, 1.01)

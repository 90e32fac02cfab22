"""FT's loss by hand, against RepDistiller's number and a slow version; its modules; what each phase
does and what is refused.
"""

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula, load
from torch import nn

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.ft import FT, Paraphraser, ft_loss
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

SHAPE = (3, 2, 4, 4)
both = pytest.mark.parametrize("phi", ["spatial", "full"])


def test_value_and_gradient_are_repdistillers():
    expected = load("losses")["cases"]["ft_factors_p2_p1"]
    student = formula((8, 32, 8, 8), "factor_s").requires_grad_()
    loss = ft_loss(student, formula((8, 32, 8, 8), "factor_t"), "spatial")
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    assert torch.autograd.grad(loss, student)[0].norm().item() == pytest.approx(
        expected["grad_norms"][0], rel=1e-8
    )


def test_hand_computed():
    student = torch.tensor([[3.0, 0.0], [1.0, 2.0]]).view(1, 2, 1, 2)  # two channels, two positions
    teacher = torch.tensor([[0.0, 0.0], [4.0, -4.0]]).view(1, 2, 1, 2)
    # spatial: means of squares (5, 2) and (8, 8)
    a, b = 5 / 29**0.5 - 0.5**0.5, 2 / 29**0.5 - 0.5**0.5
    assert ft_loss(student, teacher, "spatial").item() == pytest.approx((abs(a) + abs(b)) / 2)
    half, root = 0.5**0.5, 14**0.5
    expected = (3 / root + 0 + abs(1 / root - half) + 2 / root + half) / 4
    assert ft_loss(student, teacher, "full").item() == pytest.approx(expected)


@both
def test_slow_version(phi):
    student, teacher = (
        formula((3, 4, 4, 4), "s"),
        formula((3, 4, 2, 2) if phi == "spatial" else (3, 4, 4, 4), "t"),
    )

    def rows(factor: torch.Tensor) -> list[list[float]]:
        found = []
        for one in factor:
            if phi == "spatial":
                step = one.shape[1] // 2
                cells = [
                    one[:, i * step : (i + 1) * step, j * step : (j + 1) * step]
                    for i in (0, 1)
                    for j in (0, 1)
                ]
                row = [
                    sum(channel.mean().item() ** 2 for channel in cell) / len(cell)
                    for cell in cells
                ]
            else:
                row = one.flatten().tolist()
            norm = sum(value**2 for value in row) ** 0.5
            found.append([value / norm for value in row])
        return found

    pairs = [
        (s, t)
        for one, two in zip(rows(student), rows(teacher), strict=True)
        for s, t in zip(one, two, strict=True)
    ]
    expected = sum(abs(s - t) for s, t in pairs) / len(pairs)
    assert ft_loss(student, teacher, phi).item() == pytest.approx(expected, rel=1e-10)


@both
def test_the_length_of_a_factor_does_not_count(phi):
    student, teacher = formula(SHAPE, "s").requires_grad_(), formula(SHAPE, "t")
    loss = ft_loss(student, teacher, phi)
    (gradient,) = torch.autograd.grad(loss, student)
    scale = torch.tensor([0.1, 1.0, 30.0]).view(3, 1, 1, 1)
    assert ft_loss(student * scale, teacher / scale, phi).item() == pytest.approx(
        loss.item(), rel=1e-12
    )
    assert (gradient * student).flatten(1).sum(1).abs().max() < 1e-15
    assert gradient.abs().max() > 1e-3


@both
def test_gradient_is_that_of_finite_differences(phi):
    factors = [formula(SHAPE, key).requires_grad_() for key in "st"]
    assert torch.autograd.gradcheck(lambda s, t: ft_loss(s, t, phi), factors)


@both
@pytest.mark.parametrize("value", [0.0, 1.0, -500.0, 1e18])
def test_extreme_and_constant_factors_stay_finite(phi, value):
    student = torch.full(SHAPE, value, requires_grad=True)
    loss = ft_loss(student, torch.full(SHAPE, 500.0), phi)
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_paraphraser_and_translator_are_three_convolutions_each_way():
    paraphraser = Paraphraser(8, 4)
    assert [type(m).__name__ for m in paraphraser.encoder] == ["Conv2d", "LeakyReLU"] * 3
    assert [type(m).__name__ for m in paraphraser.decoder] == ["ConvTranspose2d", "LeakyReLU"] * 3
    assert paraphraser(torch.randn(2, 8, 5, 5)).shape == (2, 8, 5, 5)
    assert paraphraser.encoder(torch.randn(2, 8, 5, 5)).shape == (2, 4, 5, 5)
    distiller = build()
    assert [type(m).__name__ for m in distiller.translator] == [
        "Conv2d",
        "BatchNorm2d",
        "LeakyReLU",
    ] * 3
    slopes = {m.negative_slope for m in distiller.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.1}

    def convolutions(*pairs: tuple[int, int]) -> int:
        return sum(9 * a * b + b for a, b in pairs)

    both_ways = convolutions((64, 64), (64, 32), (32, 32), (32, 32), (32, 64), (64, 64))
    translator = convolutions((64, 64), (64, 32), (32, 32)) + 2 * (64 + 32 + 32)
    assert distiller.get_extra_parameters() == both_ways + translator


def build(*words: str, pair: str = "resnet14/resnet8") -> FT:
    teacher, student = pair.split("/")
    cfg = load_config(None, ["DISTILLER.TYPE", "FT", *words])
    return FT(build_model(student, 10), build_model(teacher, 10), cfg)


IMAGE, TARGET = formula((4, 3, 16, 16), "image"), torch.tensor([0, 3, 9, 3])


def test_the_first_phase_reconstructs_the_teachers_last_map_without_the_student():
    distiller = build().double()
    distiller.phase = distiller.phases(load_config(None))[0]
    distiller.train().student.forward = None  # must not be called
    logits, losses = distiller(image=IMAGE, target=TARGET)
    logits_teacher, feats = distiller.teacher(IMAGE)
    expected = (distiller.paraphraser(feats["feats"][-1]) - feats["feats"][-1]).square().mean()
    assert losses.keys() == {"loss_kd"} and losses["loss_kd"].item() == pytest.approx(
        expected.item(), rel=1e-12
    )
    assert torch.equal(logits, logits_teacher)


@both
def test_the_second_phase_weighs_cross_entropy_and_factors_and_leaves_the_paraphraser_alone(phi):
    distiller = (
        build(
            "FT.PHI", phi, "FT.LOSS.CE_WEIGHT", "0.5", "FT.LOSS.FEAT_WEIGHT", "3.0", "FT.K", "0.25"
        )
        .double()
        .train()
    )
    distiller.student.eval(), distiller.translator.eval()
    logits, losses = distiller(image=IMAGE, target=TARGET)
    student, teacher = (
        net(IMAGE)[1]["feats"][-1] for net in (distiller.student, distiller.teacher)
    )
    factors = distiller.translator(student), distiller.paraphraser.encoder(teacher)
    assert factors[0].shape == factors[1].shape == (4, 16, 4, 4)
    assert losses["loss_kd"].item() == pytest.approx(3 * ft_loss(*factors, phi).item(), rel=1e-12)
    assert losses["loss_ce"].item() == pytest.approx(
        0.5 * F.cross_entropy(logits, TARGET).item(), rel=1e-12
    )
    sum(losses.values()).backward()
    assert all(p.grad is None for p in distiller.paraphraser.parameters())
    assert all(
        p.grad is not None
        for p in [*distiller.student.parameters(), *distiller.translator.parameters()]
    )


def test_an_unknown_phi_is_refused_with_the_nearest():
    with pytest.raises(
        UserError, match="unknown value 'spacial' in FT.PHI: did you mean 'spatial'"
    ):
        build("FT.PHI", "spacial")


def test_a_factor_without_channels_is_refused():
    with pytest.raises(
        UserError, match="FT.K is 0.01, which leaves none of 64 channels; allowed: 0.015625 or more"
    ):
        build("FT.K", "0.01")


def test_full_factors_of_unequal_sizes_are_refused():
    with pytest.raises(
        UserError, match="student has 4x4 and the teacher 8x8: set FT.PHI to 'spatial'"
    ):
        build("FT.PHI", "full", pair="resnet14/ShuffleV1")
    build("FT.PHI", "spatial", pair="resnet14/ShuffleV1")

"""KDSVD against RepDistiller's numbers, a version with a true SVD, and finite differences.

Degenerate maps; refusals.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula, load

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.kdsvd import KDSVD, aligned, kdsvd_loss, matrix, singular_vectors
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

SHAPES = [(8, 16, 32, 32), (8, 32, 16, 16), (8, 64, 8, 8)]
# tall, nearly square, and wide matrices in the form "channels"
SMALL = [(2, 3, 4, 4), (2, 5, 4, 4), (2, 8, 2, 2)]
both = pytest.mark.parametrize("form", ["channels", "width"])


def maps(key: str, shapes=SMALL) -> list[torch.Tensor]:
    return [formula(shape, f"{key}{i}") for i, shape in enumerate(shapes)]


def test_value_and_gradients_are_repdistillers():
    expected = load("losses")["cases"]["kdsvd_repdistiller"]
    student, teacher = ([x.relu() for x in maps(key, SHAPES)] for key in "st")
    student = [x.requires_grad_() for x in student]
    loss = kdsvd_loss(student, teacher, 1, "channels")
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    norms = [gradient.norm().item() for gradient in torch.autograd.grad(loss, student)]
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-8)


def test_hand_computed():
    """Maps of rank one, whose only singular vector is known; the student's first one is 0.8, 0.6
    instead of 1, 0.
    """
    one = torch.tensor([1.0, 2.0]).double().view(1, 1, 1, 2)
    first_s, first_t, second = (
        torch.tensor(v, dtype=one.dtype).view(1, 2, 1, 1) * one
        for v in ((0.8, 0.6), (1.0, 0.0), (0.6, 0.8))
    )
    expected = 0.0
    for a in (0.6, 0.8):
        for b_s, b_t in ((0.8, 1.0), (0.6, 0.0)):
            expected += (math.exp(-((a - b_s) ** 2) / 8) - math.exp(-((a - b_t) ** 2) / 8)) ** 2
    assert kdsvd_loss([first_s, second], [first_t, second], 1, "channels").item() == pytest.approx(
        expected, rel=1e-12
    )
    assert kdsvd_loss(
        [5 * first_s, -second], [first_t, second], 1, "channels"
    ).item() == pytest.approx(expected, rel=1e-12)


def slow(student: list[torch.Tensor], teacher: list[torch.Tensor], k: int, form: str) -> float:
    """Image by image, with a full SVD."""
    total = 0.0
    for n in range(len(student[0])):
        before = None
        for s, t in zip(student, teacher, strict=True):
            v_s, (v_t, values) = svd(s[n], form)[0][:, : k + 3], svd(t[n], form)
            v_t, values = v_t[:, :k], values[:k] / values[:k].norm()
            chosen = []
            for i in range(k):
                v_t[:, i] *= -1 if v_t[:, i].sum() < 0 else 1
                cosines = [float(v_t[:, i] @ v_s[:, j]) for j in range(v_s.shape[1])]
                j = max(range(len(cosines)), key=lambda j: abs(cosines[j]))  # noqa: B023
                chosen.append(v_s[:, j] * math.copysign(1, cosines[j]))
            now = torch.stack(chosen, 1) * values, v_t * values
            if before:
                for a in range(len(v_t)):
                    for b in range(len(before[0])):
                        for i in range(k):
                            r_s, r_t = (
                                math.exp(-(float(x[a, i] - y[b, i]) ** 2) / 8)
                                for x, y in zip(now, before, strict=True)
                            )
                            total += (r_s - r_t) ** 2
            before = now
    return total / len(student[0])


def svd(feat: torch.Tensor, form: str) -> tuple[torch.Tensor, torch.Tensor]:
    x = feat.flatten(1).T if form == "channels" else feat.flatten(0, 1)
    _, values, v = torch.linalg.svd(x, full_matrices=False)
    return v.T.clone(), values


@both
@pytest.mark.parametrize("k", [1, 2])
def test_slow_version(form, k):
    student, teacher = maps("s"), maps("t")
    assert kdsvd_loss(student, teacher, k, form).item() == pytest.approx(
        slow(student, teacher, k, form), rel=1e-10
    )


@both
def test_gradient_is_that_of_finite_differences(form):
    student = [x.requires_grad_() for x in maps("s")]
    assert torch.autograd.gradcheck(lambda *s: kdsvd_loss(s, maps("t"), 2, form), student)


def test_the_teacher_gets_no_gradient():
    teacher = [x.requires_grad_() for x in maps("t")]
    student = [x.requires_grad_() for x in maps("s")]
    kdsvd_loss(student, teacher, 1, "channels").backward()
    assert all(x.grad is None for x in teacher) and all(x.grad is not None for x in student)


@both
def test_the_length_of_a_map_does_not_count_and_equal_maps_cost_nothing(form):
    student, teacher = [x.requires_grad_() for x in maps("s")], maps("t")
    loss = kdsvd_loss(student, teacher, 1, form)
    assert kdsvd_loss([1e4 * x for x in student], teacher, 1, form).item() == pytest.approx(
        loss.item(), rel=1e-10
    )
    for x, gradient in zip(student, torch.autograd.grad(loss, student), strict=True):
        assert (x * gradient).flatten(1).sum(1).abs().max() < 1e-15 and gradient.abs().max() > 1e-6
    same = kdsvd_loss(student, [2 * x.detach() for x in student], 1, form)
    assert same.item() < 1e-25
    assert all(gradient.abs().max() < 1e-12 for gradient in torch.autograd.grad(same, student))


def test_positions_have_no_names_in_the_form_channels():
    student, teacher = maps("s"), maps("t")
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = [
        x.flatten(2)[:, :, order % x[0, 0].numel()].view_as(x) if x.shape[2] == 4 else x
        for x in student
    ]
    expected = kdsvd_loss(student, teacher, 1, "channels").item()
    assert kdsvd_loss(shuffled, teacher, 1, "channels").item() == pytest.approx(expected, rel=1e-10)


def degenerate(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    x = formula(shape, "x").to(dtype)
    return {
        "zero": torch.zeros(shape, dtype=dtype),
        "constant": torch.full(shape, 3.0, dtype=dtype),
        "one image zero": x * torch.tensor([0.0, 1.0], dtype=dtype).view(2, 1, 1, 1),
        "rank one": torch.ones(shape, dtype=dtype) * x[:, :, :1, :1],
        "orthonormal": torch.eye(shape[1], shape[2] * shape[3], dtype=dtype)
        .view(shape[1:])
        .expand(shape)
        .clone(),
        "tiny": 1e-30 * x,
        "huge": 1e15 * x,
        "gap 500": torch.where(x > 0, 500.0, 0.0).to(dtype),
    }[kind]


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "kind",
    ["zero", "constant", "one image zero", "rank one", "orthonormal", "tiny", "huge", "gap 500"],
)
def test_degenerate_maps_give_finite_values_and_gradients(kind, dtype, form):
    student = [degenerate(kind, shape, dtype).requires_grad_() for shape in SMALL]
    loss = kdsvd_loss(student, [x.to(dtype) for x in maps("t")], 1, form)
    gradients = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss) and all(torch.isfinite(gradient).all() for gradient in gradients)
    teacher = [degenerate(kind, shape, dtype) for shape in SMALL]
    assert torch.isfinite(kdsvd_loss([x.to(dtype) for x in maps("s")], teacher, 1, form))


def test_singular_vectors_are_those_of_an_svd_in_falling_order():
    for x in (formula((2, 9, 4), "tall"), formula((2, 4, 9), "wide"), formula((2, 5, 5), "square")):
        vectors, values = singular_vectors(x, 3)
        _, expected_values, expected = torch.linalg.svd(x, full_matrices=False)
        cosine = (vectors * expected.mT[:, :, :3]).sum(1).abs()
        torch.testing.assert_close(cosine, torch.ones_like(cosine))
        torch.testing.assert_close(
            values, expected_values[:, :3] / torch.linalg.matrix_norm(x)[:, None]
        )
    assert singular_vectors(formula((2, 9, 4), "tall"), 7)[0].shape == (2, 4, 4)


def test_vectors_of_singular_value_zero_are_zero_and_close_ones_get_a_bounded_gradient():
    x = torch.diag(torch.tensor([2.0, 1.0 + 1e-12, 1.0, 0.0])).double()[None].requires_grad_()
    vectors, _ = singular_vectors(x, 4)
    assert torch.equal(vectors[0, :, 3], torch.zeros(4).double())
    (gradient,) = torch.autograd.grad((vectors * formula((1, 4, 4), "w")).sum(), x)
    assert torch.isfinite(gradient).all() and gradient.abs().max() < 1e8


def test_maps_that_are_not_finite_give_a_loss_that_is_not_instead_of_an_error():
    student = [x.float() for x in maps("s")]
    student[1][0, 0, 0, 0] = math.nan
    assert not torch.isfinite(kdsvd_loss(student, [x.float() for x in maps("t")], 1, "channels"))


def test_alignment_takes_the_closest_vector_and_its_sign():
    # the last vector is 0
    student = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.0]])[None]
    teacher = torch.tensor([[0.6, 0.9, 0.0], [0.8, 0.1, 0.0], [0.0, 0.1, 1.0]])[None]
    expected = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])[None]
    assert torch.equal(aligned(student, teacher), expected)


def test_matrices_have_channels_or_image_columns_as_columns():
    feat = torch.arange(12.0).view(1, 2, 2, 3)
    assert matrix(feat, "channels")[0].tolist() == [
        [0, 6],
        [1, 7],
        [2, 8],
        [3, 9],
        [4, 10],
        [5, 11],
    ]
    assert matrix(feat, "width")[0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert matrix(feat.half(), "width").dtype == torch.float32


def test_products_are_float32_under_autocast():
    student, teacher = [x.float() for x in maps("s")], [x.float() for x in maps("t")]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = kdsvd_loss(student, teacher, 1, "channels")
    assert loss.dtype == torch.float32 and torch.equal(
        loss, kdsvd_loss(student, teacher, 1, "channels")
    )


def build(*words: str, pair: str = "resnet14/resnet8") -> KDSVD:
    teacher, student = pair.split("/")
    cfg = load_config(None, ["DISTILLER.TYPE", "KDSVD", *words])
    return KDSVD(build_model(student, 10), build_model(teacher, 10), cfg)


@both
def test_the_distiller_weighs_its_terms(form):
    words = [
        "KDSVD.FORM", form,
        "KDSVD.K", "2",
        "KDSVD.LOSS.CE_WEIGHT", "0.5",
        "KDSVD.LOSS.FEAT_WEIGHT", "3.0",
    ]  # fmt: skip
    distiller = build(*words).double().train()
    distiller.student.eval()
    image, target = formula((4, 3, 16, 16), "image"), torch.tensor([0, 3, 9, 3])
    logits, losses = distiller(image=image, target=target)
    student, teacher = (
        net(image)[1]["feats"][1:] for net in (distiller.student, distiller.teacher)
    )
    assert losses["loss_kd"].item() == pytest.approx(
        3 * kdsvd_loss(student, teacher, 2, form).item(), rel=1e-10
    )
    assert losses["loss_ce"].item() == pytest.approx(
        0.5 * F.cross_entropy(logits, target).item(), rel=1e-12
    )
    assert distiller.get_extra_parameters() == 0


def test_unequal_channels_or_widths_or_numbers_of_stages_are_refused():
    with pytest.raises(
        UserError,
        match=r"equal channels.*student has \[16, 32, 64\].*teacher \[32, 64, 128\]: set "
        r"KDSVD.FORM to 'width'",
    ):
        build(pair="wrn_16_2/wrn_16_1")
    build("KDSVD.FORM", "width", pair="wrn_16_2/wrn_16_1")
    with pytest.raises(
        UserError,
        match=r"equal widths in pixels.*student has \[16, 8, 4\] and the teacher \[32, 16, 8\]: "
        "choose another DISTILLER.STUDENT",
    ):
        build("KDSVD.FORM", "width", pair="resnet8/ShuffleV1")
    # no advice that ends in the other form's refusal
    with pytest.raises(UserError, match=r"equal channels.* and the teacher \[.*\]: choose another"):
        build(pair="resnet8/ShuffleV1")
    with pytest.raises(UserError, match="equal channels in all stages"):
        build(pair="vgg8/resnet8")


def test_meaningless_settings_are_refused():
    with pytest.raises(UserError, match="KDSVD.K is 0; allowed: 1 or more"):
        build("KDSVD.K", "0")
    with pytest.raises(
        UserError, match="unknown value 'channel' in KDSVD.FORM: did you mean 'channels'"
    ):
        build("KDSVD.FORM", "channel")
    with pytest.raises(UserError, match="KDSVD.K is 5, but a map has 4 singular vectors"):
        kdsvd_loss(maps("s"), maps("t"), 5, "width")


def test_defaults_are_mdistillers():
    node = load_config(None).KDSVD
    assert (node.K, node.LOSS.CE_WEIGHT, node.LOSS.FEAT_WEIGHT) == (1, 1.0, 1.0)

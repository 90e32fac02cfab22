"""AB's loss by hand, against RepDistiller's numbers and a slow version.

Its connectors; what it refuses.
"""

import pytest
import torch
from support.oracles import formula, load
from torch import nn

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.ab import AB, ab_loss, connector
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

SHAPES = [(8, 16, 32, 32), (8, 32, 16, 16), (8, 64, 8, 8)]
SMALL = [(3, 2, 4, 4), (3, 3, 2, 2)]


def maps(key: str, shapes=SHAPES) -> list[torch.Tensor]:
    return [formula(shape, f"{key}{i}") for i, shape in enumerate(shapes)]


def test_value_and_gradients_are_repdistillers():
    expected = load("losses")["cases"]["ab"]
    student = [x.requires_grad_() for x in maps("pre_s")]
    loss = ab_loss(student, maps("pre_t"), 1.0)
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    norms = [gradient.norm().item() for gradient in torch.autograd.grad(loss, student)]
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-8)


def test_hand_computed():
    student = torch.tensor([2.0, 0.5, -2.0, 0.5]).view(1, 1, 1, 4)
    teacher = torch.tensor([1.0, 9.0, -1.0, 0.0]).view(1, 1, 1, 4)
    once = 3 / 1000 * (0.5**2 + 1.5**2)  # the first and the third are beyond the margin already
    assert ab_loss([student], [teacher], 1.0).item() == pytest.approx(once)
    assert ab_loss([student, student], [teacher, teacher], 1.0).item() == pytest.approx(1.5 * once)
    both = student.expand(2, 1, 1, 4)
    assert ab_loss([both], [teacher.expand_as(both)], 1.0).item() == pytest.approx(once)


def test_slow_version():
    student, teacher, margin = maps("s", SMALL), maps("t", SMALL), 0.3
    total = 0.0
    for i, (s_map, t_map) in enumerate(zip(student, teacher, strict=True)):
        for s, t in zip(s_map.flatten().tolist(), t_map.flatten().tolist(), strict=True):
            if t > 0 and s <= margin:
                total += 2 ** (i + 1 - 2) * (s - margin) ** 2
            if t <= 0 and s > -margin:
                total += 2 ** (i + 1 - 2) * (s + margin) ** 2
    assert ab_loss(student, teacher, margin).item() == pytest.approx(
        3 / 1000 / 3 * total, rel=1e-10
    )


def test_only_the_teachers_signs_count():
    student, teacher = maps("s", SMALL), maps("t", SMALL)
    loss = ab_loss(student, teacher, 1.0)
    assert torch.equal(loss, ab_loss(student, [t**3 for t in teacher], 1.0))
    assert not torch.equal(loss, ab_loss(student, [-t for t in teacher], 1.0))


def test_beyond_the_margin_there_is_nothing_to_learn():
    teacher = maps("t", SMALL)
    student = [(1.01 * t.sign()).requires_grad_() for t in teacher]
    loss = ab_loss(student, teacher, 1.0)
    gradients = torch.autograd.grad(loss, student)
    assert loss.item() == 0 and all(gradient.count_nonzero() == 0 for gradient in gradients)


def test_gradient_is_that_of_finite_differences():
    student = [x.requires_grad_() for x in maps("s", SMALL)]
    assert torch.autograd.gradcheck(lambda *s: ab_loss(s, maps("t", SMALL), 1.0), student)


@pytest.mark.parametrize("student, teacher", [(500.0, -500.0), (-500.0, 500.0), (0.0, 0.0)])
def test_extreme_and_constant_maps_stay_finite(student, teacher):
    inputs = torch.full((2, 3, 4, 4), student, requires_grad=True)
    loss = ab_loss([inputs], [torch.full((2, 3, 4, 4), teacher)], 1.0)
    (gradient,) = torch.autograd.grad(loss, inputs)
    assert loss.item() == pytest.approx(3 / 1000 * 48 * (abs(student) + 1) ** 2)
    assert torch.isfinite(gradient).all() and gradient.abs().min() > 0


def test_maps_of_unequal_shapes_are_refused():
    with pytest.raises(
        UserError, match=r"\[3, 2, 4, 4\] \(student\) and \[3, 2, 2, 2\] \(teacher\).*IMAGE_SIZE"
    ):
        ab_loss([torch.zeros(3, 2, 4, 4)], [torch.zeros(3, 2, 2, 2)], 1.0)


@pytest.mark.parametrize(
    "student, teacher, kind, kernel",
    [  # channels, height, width
        ((8, 32, 32), (8, 16, 16), nn.Conv2d, (3, 3)),
        ((8, 8, 8), (16, 16, 16), nn.ConvTranspose2d, (4, 4)),
        ((8, 16, 16), (16, 16, 16), nn.Conv2d, (1, 1)),
        ((8, 12, 12), (16, 10, 9), nn.Conv2d, (3, 4)),
    ],
)
def test_connectors_make_the_teachers_shape(student, teacher, kind, kernel):
    module = connector(torch.Size((1, *student)), torch.Size((1, *teacher)))
    assert (
        type(module[0]) is kind
        and module[0].kernel_size == kernel
        and type(module[1]) is nn.BatchNorm2d
    )
    assert module(torch.randn(2, *student)).shape == (2, *teacher)


def test_a_connector_for_equal_shapes_is_none():
    assert isinstance(connector(torch.Size((1, 8, 4, 4)), torch.Size((1, 8, 4, 4))), nn.Identity)


def test_a_student_map_that_is_much_too_small_is_refused():
    with pytest.raises(UserError, match="student map of 4x4 to the teacher's 16x16"):
        connector(torch.Size((1, 8, 4, 4)), torch.Size((1, 8, 16, 16)))


def build(*words: str, pair: str = "resnet14/resnet8") -> AB:
    teacher, student = pair.split("/")
    cfg = load_config(None, ["DISTILLER.TYPE", "AB", *words])
    return AB(build_model(student, 10), build_model(teacher, 10), cfg)


def test_equal_networks_need_no_connectors():
    assert build().get_extra_parameters() == 0
    wide = build(pair="resnet8x4/resnet8")
    # 1x1, bias, norm
    expected = sum(s * t + t + 2 * t for s, t in ((16, 64), (32, 128), (64, 256)))
    assert wide.get_extra_parameters() == expected


def test_the_first_phase_compares_pre_activations_without_the_stem():
    distiller = build("AB.MARGIN", "0.5", pair="resnet8x4/resnet8").double()
    distiller.phase = distiller.phases(load_config(None))[0]
    distiller.train()
    image = formula((4, 3, 16, 16), "image")
    with torch.no_grad():
        _, losses = distiller(image=image, target=torch.zeros(4, dtype=torch.long))
        student = distiller.student(image)[1]["preact_feats"][1:]
        student = [module(x) for module, x in zip(distiller.connectors, student, strict=True)]
        expected = ab_loss(student, distiller.teacher(image)[1]["preact_feats"][1:], 0.5)
    assert losses.keys() == {"loss_kd"} and losses["loss_kd"].item() == pytest.approx(
        expected.item(), rel=1e-12
    )


def test_unequal_numbers_of_stages_are_refused():
    with pytest.raises(UserError, match="the student has 3 and the teacher 4"):
        build(pair="vgg8/resnet8")


def test_a_margin_of_zero_is_refused():
    with pytest.raises(UserError, match="AB.MARGIN is 0.0; allowed: above 0"):
        build("AB.MARGIN", "0.0")

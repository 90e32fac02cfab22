"""OFD's loss by hand and against a slow version, its margins by integration.

Its teacher's batch statistics, refusals.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from support.loop import snapshot
from support.oracles import formula
from torch import nn

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.ofd import OFD, batch_statistics, margin, ofd_loss
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

SMALL = [(3, 2, 4, 4), (3, 3, 2, 2)]
MARGINS = [
    torch.tensor([-0.4, -0.1]).double().view(1, 2, 1, 1),
    torch.tensor([-0.2, -0.5, 0.0]).double().view(1, 3, 1, 1),
]


def maps(key: str, shapes=SMALL) -> list[torch.Tensor]:
    return [formula(shape, f"{key}{i}") for i, shape in enumerate(shapes)]


def test_hand_computed():
    student = torch.tensor([2.0, -3.0, 0.5, -0.7, 0.2, -3.0]).view(1, 1, 1, 6)
    teacher = torch.tensor([1.0, 1.0, -9.0, -9.0, -0.3, -0.3]).view(1, 1, 1, 6)
    at = torch.tensor(-0.6).view(1, 1, 1, 1)
    # to 1 from either side; down to the margin; below it already; down to the teacher, who is above
    # the margin; below already
    once = 1**2 + 4**2 + 1.1**2 + 0 + 0.5**2 + 0
    assert ofd_loss([student], [teacher], [at]).item() == pytest.approx(once)
    assert ofd_loss([student] * 3, [teacher] * 3, [at] * 3).item() == pytest.approx(
        (1 + 1 / 2 + 1 / 4) * once
    )
    larger = teacher.repeat_interleave(2, 2).repeat_interleave(2, 3)  # pooled to the student's size
    assert ofd_loss(
        [student.repeat(2, 1, 1, 1)], [larger.repeat(2, 1, 1, 1)], [at]
    ).item() == pytest.approx(once)


def test_slow_version():
    student, teacher = [2 * x for x in maps("s")], maps("t")
    total = 0.0
    for i, (s_map, t_map, at) in enumerate(zip(student, teacher, MARGINS, strict=True)):
        values = (x.expand_as(s_map).flatten().tolist() for x in (s_map, t_map, at))
        for s, t, m in zip(*values, strict=True):
            if t > 0:
                part = (s - t) ** 2
            elif t > m:
                part = (s - t) ** 2 if s > t else 0
            else:
                part = (s - m) ** 2 if s > m else 0
            total += 2 ** (i + 1 - 2) * part
    assert ofd_loss(student, teacher, MARGINS).item() == pytest.approx(total / 3, rel=1e-10)


def test_below_a_teacher_who_is_off_there_is_nothing_to_learn():
    teacher = [-x.abs() for x in maps("t")]
    student = [
        (torch.maximum(t, m) - 0.1).requires_grad_() for t, m in zip(teacher, MARGINS, strict=True)
    ]
    loss = ofd_loss(student, teacher, MARGINS)
    assert loss.item() == 0
    assert all(gradient.count_nonzero() == 0 for gradient in torch.autograd.grad(loss, student))


def test_gradient_is_that_of_finite_differences():
    student = [x.requires_grad_() for x in maps("s")]
    assert torch.autograd.gradcheck(lambda *s: ofd_loss(s, maps("t"), MARGINS), student)


@pytest.mark.parametrize(
    "student, teacher", [(500.0, -500.0), (-500.0, 500.0), (0.0, 0.0), (-500.0, -500.0)]
)
def test_extreme_and_constant_maps_stay_finite(student, teacher):
    inputs = torch.full((2, 3, 4, 4), student, requires_grad=True)
    loss = ofd_loss([inputs], [torch.full((2, 3, 4, 4), teacher)], [torch.full((1, 3, 1, 1), -1.0)])
    (gradient,) = torch.autograd.grad(loss, inputs)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    assert (loss > 0) == (abs(student - teacher) > 0)


def norm(weight: list[float], bias: list[float]) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(len(weight)).double()
    module.weight.data.copy_(torch.tensor(weight))
    module.bias.data.copy_(torch.tensor(bias))
    return module


@pytest.mark.parametrize("weight, bias", [(1.0, 0.0), (-0.5, 0.3), (2.0, -3.0), (0.7, 1.9)])
def test_a_margin_is_the_mean_of_the_negative_part_of_a_normal_density(weight, bias):
    x = torch.linspace(min(0.0, bias) - 12 * abs(weight), 0, 200001, dtype=torch.float64)
    density = torch.exp(-0.5 * ((x - bias) / weight) ** 2)
    expected = torch.trapezoid(x * density, x) / torch.trapezoid(density, x)
    assert margin(norm([weight], [bias])).item() == pytest.approx(expected.item(), rel=1e-6)


def test_margins_where_the_negative_part_is_rare_or_the_weight_is_zero():
    # P(x < 0) = 0.0007 and 0.0011 at first
    found = margin(norm([0.5, 1.0, 0.0, 0.0, 0.0], [1.6, 3.05, -0.7, 0.7, 0.0]))
    assert found.shape == (1, 5, 1, 1)
    first, second, *zero_weight = found.flatten().tolist()
    assert first == -1.5 and -0.3 < second < 0
    assert zero_weight == pytest.approx([-0.7, 0, 0])


class Exploding(nn.Module):
    def forward(self, x):
        raise RuntimeError("boom")


def test_batch_statistics_are_those_of_train_mode_and_leave_no_trace():
    net = build_model("resnet8", 10).double().eval()
    net.bn1.train()  # a mode of its own to come back to
    image, before = 3 * formula((4, 3, 16, 16), "image") + 1, snapshot(net)
    modes = [module.training for module in net.modules()]
    with torch.no_grad():
        expected = copy.deepcopy(net).train()(image)[0]
        with batch_statistics(net):
            found = net(image)[0]
        assert torch.equal(found, expected)
        with pytest.raises(RuntimeError, match="boom"), batch_statistics(net):
            Exploding()(image)
        assert [module.training for module in net.modules()] == modes
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        net.eval()(image)
        assert not torch.equal(net(image)[0], expected)
        net.train()(image)  # and in train mode it still tracks
        assert not torch.equal(net.bn1.running_mean, before["bn1.running_mean"])


def build(*words: str, pair: str = "resnet14/resnet8") -> OFD:
    teacher, student = pair.split("/")
    cfg = load_config(None, ["DISTILLER.TYPE", "OFD", *words])
    torch.manual_seed(0)
    return OFD(build_model(student, 10), build_model(teacher, 10), cfg)


def test_one_step_equals_the_definition_with_a_teacher_in_train_mode():
    distiller = (
        build(
            "OFD.LOSS.CE_WEIGHT", "0.5", "OFD.LOSS.FEAT_WEIGHT", "0.01", pair="resnet14/resnet8x4"
        )
        .double()
        .train()
    )
    image, target = formula((4, 3, 16, 16), "image"), torch.tensor([0, 3, 9, 3])
    student, teacher = copy.deepcopy(distiller.student), copy.deepcopy(distiller.teacher).train()
    connectors = copy.deepcopy(distiller.connectors)
    logits, losses = distiller(image=image, target=target)
    preacts_s, preacts_t = (net(image)[1]["preact_feats"][1:] for net in (student, teacher))
    connected = [module(x) for module, x in zip(connectors, preacts_s, strict=True)]
    margins = [getattr(distiller, f"margin{i}") for i in range(3)]
    assert losses["loss_kd"].item() == pytest.approx(
        0.01 * ofd_loss(connected, preacts_t, margins).item(), rel=1e-10
    )
    assert losses["loss_ce"].item() == pytest.approx(
        0.5 * F.cross_entropy(logits, target).item(), rel=1e-12
    )


def test_connectors_are_drawn_as_the_authors_do():
    convolution, after = build(
        "OFD.CONNECTOR.KERNEL_SIZE", "3", pair="resnet8x4/resnet8"
    ).connectors[2]
    assert (
        convolution.weight.shape == (256, 64, 3, 3)
        and convolution.bias is None
        and after.num_features == 256
    )
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.02)
    assert build(pair="resnet8x4/resnet8").get_extra_parameters() == sum(
        4 * c * c + 8 * c for c in (16, 32, 64)
    )


@pytest.mark.parametrize("pair", ["vgg8/resnet8x4", "resnet8/vgg8"])  # 4 and 3 stages, 3 and 4
def test_unequal_numbers_of_stages_are_aligned_at_the_end(pair):
    distiller = build(pair=pair).train()
    teacher_channels = distiller.teacher.get_stage_channels()[-3:]
    assert [
        c[0].in_channels for c in distiller.connectors
    ] == distiller.student.get_stage_channels()[-3:]
    assert [c[0].out_channels for c in distiller.connectors] == teacher_channels
    for i, bn in enumerate(distiller.teacher.get_bn_before_relu()[-3:]):
        assert torch.equal(getattr(distiller, f"margin{i}"), margin(bn))
    _, losses = distiller(
        image=formula((4, 3, 32, 32), "image").float(), target=torch.zeros(4, dtype=torch.long)
    )
    assert torch.isfinite(losses["loss_kd"])


def test_margins_are_part_of_the_state():
    assert {f"margin{i}" for i in range(3)} <= set(build().state_dict())


def test_a_teacher_without_such_norms_is_refused():
    with pytest.raises(
        UserError, match="ShuffleV2 has no norm before the ReLU.*choose another DISTILLER.TEACHER"
    ):
        build(pair="ShuffleV2/resnet8")
    teacher = build_model("resnet8", 10)

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = teacher

        def forward(self, image):
            return self.net(image)

    with pytest.raises(
        UserError, match=r"Bare has no get_bn_before_relu\(\): choose a DISTILLER.TEACHER"
    ):
        OFD(build_model("resnet8", 10), Bare(), load_config(None, ["DISTILLER.TYPE", "OFD"]))


@pytest.mark.parametrize("size", ["0", "2"])
def test_kernels_that_change_a_maps_size_are_refused(size):
    with pytest.raises(UserError, match=f"OFD.CONNECTOR.KERNEL_SIZE is {size}; allowed: odd"):
        build("OFD.CONNECTOR.KERNEL_SIZE", size)


def test_defaults_are_mdistillers():
    node = load_config(None).OFD
    assert (node.LOSS.CE_WEIGHT, node.LOSS.FEAT_WEIGHT) == (1.0, 0.001)
    assert node.CONNECTOR.KERNEL_SIZE == 1

"""ReviewKD: HCL against mdistiller's numbers, the fusion against a slow version.

Shapes found by measuring.
"""

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula, load
from torch import Tensor

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.distillers.reviewkd import ReviewKD, hcl
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

N = 4


def build(*words: str, pair: str = "resnet14/resnet8") -> ReviewKD:
    teacher, student = pair.split("/")
    with torch_seeded(0, "nets"):
        cfg = scaled_config(load_config(None, ["DISTILLER.TYPE", "REVIEWKD", *words]))
        return ReviewKD(build_model(student, 10), build_model(teacher, 10), cfg).train()


def test_hcl_equals_mdistillers_value_and_gradients():
    expected = load("losses")["cases"]["hcl"]
    shapes = ((8, 16, 32, 32), (8, 32, 16, 16), (8, 64, 8, 8))
    own = [formula(shape, f"s{i}").relu().requires_grad_() for i, shape in enumerate(shapes)]
    loss = sum(
        hcl(a, formula(shape, f"t{i}").relu())
        for i, (a, shape) in enumerate(zip(own, shapes, strict=True))
    )
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    norms = [gradient.norm().item() for gradient in torch.autograd.grad(loss, own)]
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-8)


def test_hcl_hand_computed():
    # 2x2 map: differences 1, 2, 3, 4, mean of squares 7.5; their mean 2.5, squared 6.25, weight 1/2
    # as the first level used
    difference = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert hcl(difference, torch.zeros(1, 1, 2, 2)).item() == pytest.approx(
        (7.5 + 0.5 * 6.25) / 1.5
    )
    assert hcl(difference[:, :, :1, :1], torch.zeros(1, 1, 1, 1)).item() == 1.0


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_hcl_equals_an_independent_version(size):
    a, b = formula((2, 3, size, size), "a"), formula((2, 3, size, size), "b")
    total, loss, weight = 1.0, ((a - b) ** 2).mean().item(), 1.0
    for cells in (4, 2, 1):
        if cells < size:
            weight, squares = weight / 2, 0.0
            for i in range(cells):
                for j in range(cells):
                    rows = slice(i * size // cells, -(-(i + 1) * size // cells))
                    columns = slice(j * size // cells, -(-(j + 1) * size // cells))
                    squares += (
                        (a - b)[:, :, rows, columns].mean((2, 3)) ** 2
                    ).mean().item() / cells**2
            loss, total = loss + weight * squares, total + weight
    assert hcl(a, b).item() == pytest.approx(loss / total, rel=1e-10)


def test_hcl_of_equal_maps_is_zero_and_a_constant_shift_is_seen_alike_on_every_level():
    a = formula((2, 3, 8, 8), "a").requires_grad_()
    assert hcl(a, a.detach()).item() == 0
    loss = hcl(a, a.detach() - 3)
    assert loss.item() == pytest.approx(9, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, a)
    torch.testing.assert_close(gradient, torch.full_like(a, 6 / a.numel()))


def test_gradient_is_that_of_finite_differences():
    a, b = (formula((2, 2, 5, 5), key).requires_grad_() for key in "ab")
    assert torch.autograd.gradcheck(hcl, (a, b))


def test_large_and_constant_maps_stay_finite():
    a = torch.full((2, 3, 8, 8), 500.0, requires_grad=True)
    loss = hcl(a, torch.full((2, 3, 8, 8), -500.0))
    assert loss.item() == pytest.approx(1e6)
    assert torch.isfinite(torch.autograd.grad(loss, a)[0]).all()
    distiller = build()
    _, losses = distiller(image=torch.zeros(N, 3, 16, 16), target=torch.arange(N))
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in distiller.get_learnable_parameters())


def slow_norm(x: Tensor, conv, norm, padding: int) -> Tensor:
    x = F.conv2d(x, conv.weight, padding=padding)
    x = (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), unbiased=False, keepdim=True) + norm.eps
    ).sqrt()
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def nearest(x: Tensor, size: int) -> Tensor:
    rows = torch.arange(size) * x.shape[2] // size
    return x[:, :, rows][:, :, :, rows]


@pytest.mark.parametrize("preact", [False, True])
# the second has maps half the teacher's
@pytest.mark.parametrize("pair", ["resnet14/resnet8", "resnet14/ShuffleV1"])
def test_one_step_equals_the_definition(pair, preact):
    words = (
        "REVIEWKD.REVIEWKD_WEIGHT", "0.6",
        "REVIEWKD.CE_WEIGHT", "2.0",
        "REVIEWKD.STU_PREACT", str(preact),
    )  # fmt: skip
    distiller = build(*words, pair=pair).double()
    image, target = formula((N, 3, 16, 16), "image"), torch.arange(N)
    logits, feats = distiller.student(image)
    goals = distiller.teacher(image)[1]
    own = [
        *feats["preact_feats" if preact else "feats"][1:],
        feats["pooled_feat"][:, :, None, None],
    ]
    goals = [*goals["preact_feats"][1:], goals["pooled_feat"][:, :, None, None]]
    loss, r = 0.0, None
    for k in (3, 2, 1, 0):
        abf, size = distiller.abfs[k], goals[k].shape[2]
        a = slow_norm(own[k], *abf.enter, padding=0)
        if r is not None:
            r = nearest(r, a.shape[2])
            both = torch.cat([a, r], 1)
            gates = (
                torch.einsum("nchw,gc->nghw", both, abf.gates.weight[:, :, 0, 0])
                + abf.gates.bias[:, None, None]
            )
            gates = 1 / (1 + (-gates).exp())
            a = a * gates[:, :1] + r * gates[:, 1:]
        r = nearest(a, size)
        loss = loss + hcl(slow_norm(r, *abf.leave, padding=1), goals[k])
    _, losses = distiller(image=image, target=target, epoch=5)
    assert losses["loss_kd"].item() == pytest.approx(5 / 20 * 0.6 * loss.item(), rel=1e-9)
    assert losses["loss_ce"].item() == pytest.approx(
        2 * F.cross_entropy(logits, target).item(), rel=1e-12
    )


def test_shapes_in_the_config_do_not_matter_because_the_networks_are_measured():
    distiller = build(
        "REVIEWKD.IN_CHANNELS", "[1, 2]", "REVIEWKD.SHAPES", "[7]", pair="resnet8x4/resnet8"
    )
    channels = [(abf.enter[0].in_channels, abf.leave[0].out_channels) for abf in distiller.abfs]
    assert channels == [(16, 64), (32, 128), (64, 256), (64, 256)]
    assert {abf.enter[0].out_channels for abf in distiller.abfs} == {64}
    assert [abf.gates is None for abf in distiller.abfs] == [False, False, False, True]


def test_the_middle_is_at_most_max_mid_channel_wide():
    assert build(pair="resnet8x4/MobileNetV2").abfs[0].enter[0].out_channels == 512
    assert build("REVIEWKD.MAX_MID_CHANNEL", "20").abfs[0].enter[0].out_channels == 20


def test_unequal_numbers_of_stages_pair_the_last_with_the_last():
    assert build(pair="ResNet18/resnet8").goals == [1, 2, 3, 4]  # of 4 stages and the pooled vector
    assert build(pair="resnet8/vgg8").goals == [0, 1, 2, 2, 3]


def test_the_warmup_scales_with_a_short_schedule():
    distiller = build("SOLVER.EPOCHS", "30", "SOLVER.SCHEDULE_EPOCHS", "240")
    data = {"image": formula((N, 3, 8, 8), "image").float(), "target": torch.arange(N)}
    first, second, full = (
        distiller(**data, epoch=epoch)[1]["loss_kd"].item() for epoch in (1, 2, 3)
    )
    assert (first / full, second / full) == pytest.approx((0.4, 0.8), rel=1e-5)


@pytest.mark.parametrize("key, value", [("WARMUP_EPOCHS", "-1"), ("MAX_MID_CHANNEL", "0")])
def test_meaningless_settings_are_refused(key, value):
    with pytest.raises(UserError, match=f"REVIEWKD.{key} is {value}; allowed"):
        build(f"REVIEWKD.{key}", value)


def test_defaults_are_mdistillers():
    node = load_config(None).REVIEWKD
    assert (node.CE_WEIGHT, node.REVIEWKD_WEIGHT, node.WARMUP_EPOCHS) == (1.0, 1.0, 20)
    assert (node.SHAPES, node.OUT_SHAPES) == ([1, 8, 16, 32], [1, 8, 16, 32])
    assert (node.IN_CHANNELS, node.OUT_CHANNELS) == ([64, 128, 256, 256], [64, 128, 256, 256])
    assert (node.MAX_MID_CHANNEL, node.STU_PREACT) == (512, False)

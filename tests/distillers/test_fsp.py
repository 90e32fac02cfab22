"""FSP's flow and loss by hand, against RepDistiller's numbers and a slow version.

Invariances; what it refuses.
"""

import pytest
import torch
from support.oracles import formula, load

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.fsp import FSP, flow, fsp_loss
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

SHAPES = [(8, 16, 32, 32), (8, 16, 32, 32), (8, 32, 16, 16), (8, 64, 8, 8)]
SMALL = [(3, 2, 4, 4), (3, 3, 4, 4), (3, 2, 2, 2)]


def maps(key: str, shapes=SMALL) -> list[torch.Tensor]:
    return [formula(shape, f"{key}{i}") for i, shape in enumerate(shapes)]


def test_value_and_gradients_are_repdistillers():
    expected = load("losses")["cases"]["fsp"]
    student = [x.requires_grad_() for x in maps("fsp_s", SHAPES)]
    loss = fsp_loss(student, maps("fsp_t", SHAPES))
    assert loss.item() == pytest.approx(expected["value"], rel=1e-8)
    norms = [gradient.norm().item() for gradient in torch.autograd.grad(loss, student)]
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-8)


def test_hand_computed():
    bottom = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)
    top = torch.tensor([[3.0, 4.0], [5.0, 6.0]]).view(1, 2, 1, 2)
    assert flow(bottom, top).tolist() == [[[(3 + 8) / 2], [(5 + 12) / 2]]]
    # the larger map is pooled
    assert flow(bottom, top[..., :1]).tolist() == [[[1.5 * 3], [1.5 * 5]]]
    nothing = [torch.zeros_like(bottom), top]
    assert fsp_loss([bottom, top], nothing).item() == (5.5**2 + 8.5**2) / 2
    twice = [bottom, top, top]  # sums over the pairs of maps
    last = flow(top, top).square().mean().item()
    assert fsp_loss(twice, [torch.zeros_like(x) for x in twice]).item() == pytest.approx(
        (5.5**2 + 8.5**2) / 2 + last
    )


def slow_flow(bottom: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Position by position; `bottom` may be twice as large as `top`."""
    ratio = bottom.shape[2] // top.shape[2]
    found = torch.zeros(len(top), top.shape[1], bottom.shape[1], dtype=top.dtype)
    high, wide = top.shape[2:]
    for n, d, c in torch.cartesian_prod(*(torch.arange(size) for size in found.shape)).tolist():
        for i in range(high):
            for j in range(wide):
                patch = bottom[n, c, i * ratio : (i + 1) * ratio, j * ratio : (j + 1) * ratio]
                found[n, d, c] += top[n, d, i, j] * patch.mean() / (high * wide)
    return found


def test_slow_version():
    student, teacher = maps("s"), maps("t")
    expected = sum(
        (slow_flow(*student[i : i + 2]) - slow_flow(*teacher[i : i + 2])).square().mean()
        for i in range(2)
    )
    assert fsp_loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-10)


def test_positions_have_no_names():
    """One permutation of the positions in all maps of a size changes no flow.

    It permutes the gradient.
    """
    shapes = [(3, 2, 4, 4), (3, 3, 4, 4)]
    student, teacher = [x.requires_grad_() for x in maps("s", shapes)], maps("t", shapes)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = [x.detach().flatten(2)[:, :, order].view_as(x).requires_grad_() for x in student]
    loss, again = fsp_loss(student, teacher), fsp_loss(shuffled, teacher)
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)
    for one, two in zip(
        torch.autograd.grad(loss, student), torch.autograd.grad(again, shuffled), strict=True
    ):
        torch.testing.assert_close(one.flatten(2)[:, :, order], two.flatten(2))


def test_equal_flows_cost_nothing_whatever_the_networks_sizes():
    small = maps("s", [(3, 2, 4, 4), (3, 3, 4, 4)])
    large = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in small]
    student = [x.requires_grad_() for x in small]
    loss = fsp_loss(student, large)
    assert loss.item() < 1e-30
    assert all(gradient.abs().max() < 1e-15 for gradient in torch.autograd.grad(loss, student))


def test_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(
        lambda *s: fsp_loss(s, maps("t")), [x.requires_grad_() for x in maps("s")]
    )


@pytest.mark.parametrize("value", [0.0, 1.0, 500.0])
def test_extreme_and_constant_maps_stay_finite(value):
    student = [torch.full(shape, value, requires_grad=True) for shape in SMALL]
    loss = fsp_loss(student, [torch.full(shape, -1.0) for shape in SMALL])
    assert loss.item() == pytest.approx(2 * (value**2 - 1) ** 2)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, student))


def test_flows_are_float32_under_autocast():
    student, teacher = [x.float() for x in maps("s")], [x.float() for x in maps("t")]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fsp_loss(student, teacher)
    assert loss.dtype == torch.float32 and torch.equal(loss, fsp_loss(student, teacher))


def build(pair: str) -> FSP:
    teacher, student = pair.split("/")
    return FSP(
        build_model(student, 10),
        build_model(teacher, 10),
        load_config(None, ["DISTILLER.TYPE", "FSP"]),
    )


def test_the_first_phase_compares_all_maps_stem_included():
    distiller = build("resnet14/resnet8").double()
    assert distiller.get_extra_parameters() == 0
    distiller.phase = distiller.phases(load_config(None))[0]
    distiller.train()
    image = formula((4, 3, 16, 16), "image")
    with torch.no_grad():
        _, losses = distiller(image=image, target=torch.zeros(4, dtype=torch.long))
        expected = fsp_loss(
            distiller.student(image)[1]["feats"], distiller.teacher(image)[1]["feats"]
        )
    assert losses.keys() == {"loss_kd"} and losses["loss_kd"].item() == pytest.approx(
        expected.item(), rel=1e-12
    )


@pytest.mark.parametrize("pair", ["wrn_16_2/wrn_16_1", "vgg8/resnet8"])
def test_unequal_channels_or_numbers_of_maps_are_refused(pair):
    with pytest.raises(
        UserError,
        match=r"FSP needs equal channels in all maps, but the student has \[16, 16, 32, 64\]",
    ):
        build(pair)

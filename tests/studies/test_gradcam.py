"""Grad-CAM against a network small enough to compute by hand; what a rank correlation must be."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.sdkd import SDKD
from sdkd_plugin.models import build_model
from sdkd_plugin.studies.gradcam import (
    ProxyNetwork,
    enlarged,
    grad_cam,
    last_stage,
    rank_correlation,
)


class Tiny(nn.Module):
    """A [N, 2, 2, 2] is the image's first two channels; logits are linear in its squares' means.

    z_0 = 3 mean(A_0) - mean(A_1), z_1 = mean(A_1^2). Hence dz_0 / dA = (3 / 4, -1 / 4) everywhere,
    and dz_1 / dA_1 = A_1 / 2.
    """

    def __init__(self):
        super().__init__()
        self.stage = nn.Identity()

    def forward(self, image):
        a = self.stage(image[:, :2])
        zero = 3 * a[:, 0].mean((1, 2)) - a[:, 1].mean((1, 2))
        one = a[:, 1].square().mean((1, 2))
        return torch.stack([zero, one], 1), {}


IMAGE = torch.tensor(
    [[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 8.0], [0.0, -4.0]], [[9.0, 9.0], [9.0, 9.0]]]]
)


def test_grad_cam_by_hand():
    """Of class 0: 3 / 4 A_0 - 1 / 4 A_1. Of class 1: w = mean of A_1 / 2 = 1 / 2, so A_1 / 2."""
    net = Tiny()
    both = torch.cat([IMAGE, IMAGE])
    maps = grad_cam(net, net.stage, [both], torch.tensor([0, 1]))
    assert torch.allclose(maps[0], torch.tensor([[0.75, -0.5], [2.25, 4.0]]))
    assert torch.allclose(maps[1], torch.tensor([[0.0, 4.0], [0.0, -2.0]]))
    apart = grad_cam(net, net.stage, [IMAGE, IMAGE], torch.tensor([0, 1]))
    assert torch.equal(maps, apart)


def test_what_is_drawn_is_what_speaks_for_the_class():
    drawn = enlarged(
        torch.tensor([[[-1.0, 2.0], [4.0, 0.0]], [[-1.0, -2.0], [-3.0, -4.0]]]), (2, 2)
    )
    assert torch.equal(drawn[0], torch.tensor([[0.0, 0.5], [1.0, 0.0]]))
    assert torch.equal(drawn[1], torch.zeros(2, 2))
    assert enlarged(torch.rand(1, 2, 2), (8, 8)).shape == (1, 8, 8)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1"])
def test_of_every_family_it_is_the_gradient_times_the_last_stages_map(name):
    """The same formula with autograd's own gradient of the last map."""
    torch.manual_seed(0)
    net = build_model(name, 5).eval()
    image = torch.randn(2, 3, 32, 32)
    seen = []
    layer = last_stage(net)
    hook = layer.register_forward_hook(
        lambda module, given, made: seen.append(made[0] if isinstance(made, tuple) else made)
    )
    logits, _ = net(image)
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, 3] + logits[1, 1], seen[0])
    expected = (gradient.mean((2, 3), keepdim=True) * seen[0]).sum(1)
    maps = grad_cam(net, layer, [image], torch.tensor([3, 1]))
    assert torch.allclose(maps, expected.detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("sync", ["step", "ema"])
def test_the_proxys_maps_are_those_of_its_fused_pass(sync):
    torch.manual_seed(0)
    cfg = load_config(None, ["DISTILLER.TYPE", "SDKD", "SDKD.SYNC", sync])
    method = SDKD(build_model("resnet8", 5), build_model("resnet14", 5), cfg).eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    image = torch.randn(2, 3, 16, 16)
    proxy = ProxyNetwork(method)
    maps = grad_cam(proxy, last_stage(proxy), [image], torch.tensor([0, 4]))

    logits, feats = proxy(image)
    last = feats["feats"][3]
    head = method.student.fc.weight  # pooled linearly: dz_y / dA_c = W_yc / (H W)
    assert torch.allclose(logits, method.student.fc(last.mean((2, 3))), atol=1e-6)
    weight = head[[0, 4]][:, :, None, None] / last[0, 0].numel()
    assert torch.allclose(maps, (weight * last).sum(1).detach(), rtol=1e-4, atol=1e-7)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_the_rank_correlation_is_spearmans():
    one, two = torch.randn(4, 3, 3), torch.randn(4, 3, 3)
    two[1] = two[1].round()  # ties
    found = rank_correlation(one, two)
    expected = [
        spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(one, two, strict=True)
    ]
    assert found == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(one, one.exp()) == pytest.approx([1] * 4)  # order alone counts
    assert rank_correlation(one, -one) == pytest.approx([-1] * 4)


def test_maps_of_two_sizes_are_compared_at_the_smaller():
    small = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    large = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert rank_correlation(small, large) == pytest.approx([1])
    assert rank_correlation(large, small) == pytest.approx([1])


def test_a_map_that_is_the_same_everywhere_has_no_rank_correlation():
    found = rank_correlation(torch.stack([torch.ones(2, 2), torch.eye(2)]), torch.rand(2, 2, 2))
    assert math.isnan(found[0]) and not np.isnan(found[1])

"""Initial weights: the distribution of each family, against its formula."""

import math

import pytest
import torch
from torch import Tensor, nn

from sdkd_plugin.models import build_model

HE = ("resnet20", "resnet8x4", "ResNet18", "wrn_16_2", "vgg8", "MobileNetV2")
PYTORCH = ("ShuffleV1", "ShuffleV2")  # U(-b, b), b = 1 / sqrt(fan_in), everywhere


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, 100)


def assert_std(weight: Tensor, std: float) -> None:
    """Within five standard errors of a normal sample's deviation (a uniform one's is smaller)."""
    assert weight.square().mean().sqrt().item() == pytest.approx(
        std, rel=5 / math.sqrt(2 * weight.numel())
    )


def kurtosis(x: Tensor) -> float:
    return ((x - x.mean()) ** 4).mean().item() / x.var().item() ** 2


@pytest.mark.parametrize("name", HE)
@torch.no_grad()
def test_convolutions_are_he_normal(name: str):
    standardised = []
    for conv in [module for module in build(name).modules() if isinstance(module, nn.Conv2d)]:
        std = math.sqrt(2 / (conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels))
        assert_std(conv.weight, std)
        standardised.append(conv.weight.flatten() / std)
        assert conv.bias is None or not conv.bias.any()
    assert kurtosis(torch.cat(standardised)) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("name", PYTORCH)
@torch.no_grad()
def test_shuffle_convolutions_are_uniform(name: str):
    standardised = []
    for conv in [module for module in build(name).modules() if isinstance(module, nn.Conv2d)]:
        bound = 1 / math.sqrt(conv.weight[0].numel())
        assert conv.weight.abs().max() <= bound
        assert_std(conv.weight, bound / math.sqrt(3))
        standardised.append(conv.weight.flatten() / bound)
    assert kurtosis(torch.cat(standardised)) == pytest.approx(1.8, abs=0.05)


@pytest.mark.parametrize("name", HE + PYTORCH)
@torch.no_grad()
def test_linear_and_norms(name: str):
    net = build(name)
    linear = net.classifier_module()
    bound = 1 / math.sqrt(linear.in_features)
    if name in ("vgg8", "MobileNetV2"):
        assert_std(linear.weight, 0.01)
        assert kurtosis(linear.weight) == pytest.approx(3, abs=0.1)
    else:
        assert_std(linear.weight, bound / math.sqrt(3))
        assert kurtosis(linear.weight) == pytest.approx(1.8, abs=0.1)
    if name in ("wrn_16_2", "vgg8", "MobileNetV2"):
        assert not linear.bias.any()
    else:
        assert_std(linear.bias, bound / math.sqrt(3))
    for norm in [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]:
        assert (norm.weight == 1).all() and not norm.bias.any()

"""Wide ResNet: depth 6n + 4, pre-activation blocks, widths 16, 16k, 32k, 64k.

Source: Zagoruyko and Komodakis 2016, table 1.

A stage returns the raw sum, which may be negative; its norm and ReLU stand at the start of the next
stage. So `feats` are the raw sums and `preact_feats` what the next norm makes of them. mdistiller
runs those norms a second time to obtain it and moves their running statistics twice per step; here
the next stage hands out what it computed anyway.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdkd_plugin.models.base import CifarNet, Maps, init_convolutions, last_norm
from sdkd_plugin.registry import MODELS


class PreactBlock(nn.Module):
    """conv(relu(norm(conv(a)))) + x, where a = relu(norm(x)).

    Where the shape changes, a 1x1 convolution of a takes the place of x.
    """

    # a list while `run_tapped` listens, which keeps the norm's output
    tap: list[Tensor] | None = None

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

        self.convShortcut: nn.Module | None = None
        if in_channels != channels:
            self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        preact = self.bn1(x)  # [N, in_channels, H, W]
        if self.tap is not None:
            self.tap.append(preact)
        # what a listener keeps must survive
        activated = F.relu(preact, inplace=self.tap is None)

        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        out = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        return self.conv2(out) + shortcut  # [N, channels, H/stride, W/stride]


class PreactStage(nn.Module):
    """Pre-activation blocks in a row, under the name `layer`; the first carries the stride."""

    def __init__(self, blocks: int, in_channels: int, channels: int, stride: int):
        super().__init__()
        following = [PreactBlock(channels, channels, stride=1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(PreactBlock(in_channels, channels, stride), *following)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Layered(Protocol):
    """A PreactStage, or a module that wraps one and hands out its `layer`."""

    @property
    def layer(self) -> nn.Sequential: ...

    def __call__(self, x: Tensor) -> Tensor: ...


class WideResNet(CifarNet):
    """A CIFAR Wide ResNet without dropout.

    Args:
        depth: 6n + 4.
        widen: the factor k.
        num_classes: length of the logits.
    """

    def __init__(self, depth: int, widen: int, num_classes: int):
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        super().__init__(widths)
        blocks = (depth - 4) // 6

        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.block1 = PreactStage(blocks, widths[0], widths[1], stride=1)
        self.block2 = PreactStage(blocks, widths[1], widths[2], stride=2)
        self.block3 = PreactStage(blocks, widths[2], widths[3], stride=2)
        self.bn1: nn.Module = nn.BatchNorm2d(widths[3])  # `fold_affine` puts more there
        self.fc = nn.Linear(widths[3], num_classes)

        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def maps(self, image: Tensor) -> Maps:
        return self.maps_through(image, nn.Identity())

    def maps_through(self, image: Tensor, insert: Callable[[Tensor], Tensor]) -> Maps:
        stem = self.conv1(image)  # [N, 16, H, W]
        feat1 = self.block1(stem)
        feat2, preact1 = run_tapped(self.block2, feat1)
        feat3, preact2 = run_tapped(self.block3, feat2)
        preact3 = self.bn1(insert(feat3))  # [N, 64 k, H/4, W/4]

        feats = [stem, feat1, feat2, feat3]
        preact_feats = [stem, preact1, preact2, preact3]
        return feats, preact_feats, F.relu(preact3)

    @torch.no_grad()
    def fold_affine(self, matrix: Tensor, shift: Tensor) -> None:
        """The last norm and ReLU come before the average, so a 1x1 convolution goes before them."""
        conv = nn.Conv2d(len(shift), len(shift), 1).to(last_norm(self.bn1).weight)
        conv.weight.copy_(matrix[:, :, None, None])
        assert conv.bias is not None  # torch gives a convolution one unless told otherwise
        conv.bias.copy_(shift)
        self.bn1 = nn.Sequential(conv, self.bn1).train(self.bn1.training)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [_first(self.block2).bn1, _first(self.block3).bn1, last_norm(self.bn1)]


def _first(stage: Layered) -> PreactBlock:
    return cast(PreactBlock, stage.layer[0])


def run_tapped(stage: Layered, x: Tensor) -> tuple[Tensor, Tensor]:
    """Runs a stage and also returns the pre-activation of x.

    The tap lives on the block during this call alone: copies, replicas and the graph see nothing
    of it.
    """
    first = _first(stage)
    first.tap = []
    try:
        out = stage(x)
        # A wrapper may leave its stage out, as SDKD's proxy does before its first fusion: then
        # the norm has not run yet.
        preact = first.tap[0] if first.tap else first.bn1(x)
    finally:
        first.tap = None

    return out, preact


for _depth, _widen in ((16, 1), (16, 2), (40, 1), (40, 2)):
    MODELS.register(f"wrn_{_depth}_{_widen}")(partial(WideResNet, _depth, _widen))

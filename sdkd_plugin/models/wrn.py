"""Wide ResNet: depth 6n + 4, pre-activation blocks, widths 16, 16k, 32k, 64k (Zagoruyko and
Komodakis 2016, table 1).

A stage returns the raw sum, which may be negative; its norm and ReLU stand at the start of the next
stage. So `feats` are the raw sums and `preact_feats` what the next norm makes of them. mdistiller
runs those norms a second time to obtain it and moves their running statistics twice per step; here
the next stage hands out what it computed anyway.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdkd_plugin.models.base import CifarNet, Maps, init_convolutions
from sdkd_plugin.registry import MODELS


class PreactBlock(nn.Module):
    """a = relu(norm(x)); conv(relu(norm(conv(a)))) plus x, or plus a 1x1 convolution of a where the
    shape changes.
    """

    tap: list[Tensor] | None = (
        None  # a list while `run_tapped` listens, which keeps the norm's output
    )

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        same_width = in_channels == channels
        self.convShortcut = (
            None if same_width else nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        preact = self.bn1(x)
        if self.tap is not None:
            self.tap.append(preact)
        activated = F.relu(preact, inplace=self.tap is None)
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        out = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        return self.conv2(out) + shortcut


class PreactStage(nn.Module):
    """Pre-activation blocks in a row, under the name `layer`; the first carries the stride."""

    def __init__(self, blocks: int, in_channels: int, channels: int, stride: int):
        super().__init__()
        following = [PreactBlock(channels, channels, stride=1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(PreactBlock(in_channels, channels, stride), *following)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


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
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def maps(self, image: Tensor) -> Maps:
        return self.maps_through(image, nn.Identity())

    def maps_through(self, image: Tensor, insert: Callable[[Tensor], Tensor]) -> Maps:
        stem = self.conv1(image)
        feat1 = self.block1(stem)
        feat2, preact1 = run_tapped(self.block2, feat1)
        feat3, preact2 = run_tapped(self.block3, feat2)
        preact3 = self.bn1(insert(feat3))
        return [stem, feat1, feat2, feat3], [stem, preact1, preact2, preact3], F.relu(preact3)

    @torch.no_grad()
    def fold_affine(self, matrix: Tensor, shift: Tensor) -> None:
        """The last norm and ReLU stand between, so it becomes a 1x1 convolution in front of that
        norm.
        """
        conv = nn.Conv2d(len(shift), len(shift), 1).to(self.bn1.weight)
        conv.weight.copy_(matrix[:, :, None, None])
        conv.bias.copy_(shift)
        self.bn1 = nn.Sequential(conv, self.bn1).train(self.bn1.training)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [self.block2.layer[0].bn1, self.block3.layer[0].bn1, self.bn1]


def run_tapped(stage: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Runs a stage, or a module that wraps one and exposes its `layer`; also returns the
    pre-activation of x.

    The tap lives on the block during this call alone: copies, replicas and the graph see nothing of
    it.
    """
    first = stage.layer[0]
    first.tap = []
    try:
        out = stage(x)
        # a wrapper may leave its stage out, as SDKD's proxy does before its first fusion: then the
        # norm has not run yet
        preact = first.tap[0] if first.tap else first.bn1(x)
    finally:
        first.tap = None
    return out, preact


for _depth, _widen in ((16, 1), (16, 2), (40, 1), (40, 2)):
    MODELS.register(f"wrn_{_depth}_{_widen}")(partial(WideResNet, _depth, _widen))

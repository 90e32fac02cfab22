"""ResNet18 and ResNet50 as for ImageNet, with a 3x3 stem at full size for CIFAR.

Source: He et al. 2016, table 1.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from sdkd_plugin.models.base import CifarNet, Maps, Stage, conv_norm, init_convolutions, run_stages
from sdkd_plugin.registry import MODELS


class BasicBlock(nn.Module):
    """Two 3x3 convolutions plus shortcut; the ReLU after the sum belongs to the stage."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_channels, width, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(out)) + self.shortcut(x)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1 to four times the width, plus shortcut.

    The last ReLU belongs to the stage.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        channels = self.expansion * width

        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

        self.shortcut = _shortcut(in_channels, channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return self.bn3(self.conv3(out)) + self.shortcut(x)


Block = BasicBlock | Bottleneck


class ResNetV2(CifarNet):
    """Four stages of 64, 128, 256 and 512 channels times the block's expansion.

    Each stage after the first works at half the size of the one before.

    Args:
        block: BasicBlock or Bottleneck.
        blocks: how many blocks each stage has.
        num_classes: length of the logits.
    """

    head = "linear"

    def __init__(self, block: type[Block], blocks: tuple[int, int, int, int], num_classes: int):
        channels = [64] + [block.expansion * width for width in (64, 128, 256, 512)]
        super().__init__(channels)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)

        self.layer1 = _stage(block, blocks[0], channels[0], 64, stride=1)
        self.layer2 = _stage(block, blocks[1], channels[1], 128, stride=2)
        self.layer3 = _stage(block, blocks[2], channels[2], 256, stride=2)
        self.layer4 = _stage(block, blocks[3], channels[3], 512, stride=2)
        self.linear = nn.Linear(channels[4], num_classes)

        init_convolutions(self)

    @property
    def stages(self) -> list[Stage[Block]]:
        """The four stages, in the order they run."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def maps(self, image: Tensor) -> Maps:
        stem = F.relu(self.bn1(self.conv1(image)))  # [N, 64, H, W]
        feats, preact_feats = run_stages(stem, self.stages)
        return feats, preact_feats, feats[-1]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [stage.last.last_norm for stage in self.stages]


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    if stride == 1 and in_channels == channels:
        return nn.Sequential()
    return conv_norm(in_channels, channels, 1, stride)


def _stage(
    block: type[Block], blocks: int, in_channels: int, width: int, stride: int
) -> Stage[Block]:
    following = [block(block.expansion * width, width, stride=1) for _ in range(blocks - 1)]
    return Stage(block(in_channels, width, stride), *following)


MODELS.register("ResNet18")(partial(ResNetV2, BasicBlock, (2, 2, 2, 2)))
MODELS.register("ResNet50")(partial(ResNetV2, Bottleneck, (3, 4, 6, 3)))

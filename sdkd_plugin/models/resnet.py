"""ResNet for CIFAR: depth 6n + 2, three stages of n basic blocks; x4 widens the stages.

Source: He et al. 2016, section 4.2.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from sdkd_plugin.models.base import CifarNet, Maps, Stage, conv_norm, init_convolutions, run_stages
from sdkd_plugin.registry import MODELS


class BasicBlock(nn.Module):
    """x -> norm(conv(relu(norm(conv(x))))) + shortcut(x).

    The ReLU after the sum belongs to the stage.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = conv_norm(in_channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(out)) + shortcut


class ResNet(CifarNet):
    """A CIFAR ResNet; stage maps have the image's size, a half and a quarter of it.

    Args:
        depth: 6n + 2.
        widths: channels of the stem and of the three stages.
        num_classes: length of the logits.
    """

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int):
        super().__init__(widths)
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()

        self.layer1 = _stage(blocks, widths[0], widths[1], stride=1)
        self.layer2 = _stage(blocks, widths[1], widths[2], stride=2)
        self.layer3 = _stage(blocks, widths[2], widths[3], stride=2)
        self.fc = nn.Linear(widths[3], num_classes)

        init_convolutions(self)

    def maps(self, image: Tensor) -> Maps:
        stem = self.relu(self.bn1(self.conv1(image)))  # [N, widths[0], H, W]
        feats, preact_feats = run_stages(stem, [self.layer1, self.layer2, self.layer3])
        return feats, preact_feats, feats[-1]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [stage.last.bn2 for stage in (self.layer1, self.layer2, self.layer3)]


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> Stage[BasicBlock]:
    following = [BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)]
    return Stage(BasicBlock(in_channels, channels, stride), *following)


for _depth in (8, 14, 20, 32, 44, 56, 110):
    MODELS.register(f"resnet{_depth}")(partial(ResNet, _depth, (16, 16, 32, 64)))
for _depth in (8, 32):
    MODELS.register(f"resnet{_depth}x4")(partial(ResNet, _depth, (32, 64, 128, 256)))

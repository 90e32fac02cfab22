"""ShuffleNet with three groups for CIFAR: grouped 1x1 convolutions and channel shuffle.

Source: Zhang et al. 2018, figure 2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdkd_plugin.models.base import CifarNet, Maps, Stage, run_stages
from sdkd_plugin.registry import MODELS

GROUPS = 3
STEM = 24
BLOCKS = (4, 8, 4)
WIDTHS = (240, 480, 960)


class ShuffleUnit(nn.Module):
    """1x1, shuffle, 3x3 depthwise, 1x1; then x is joined to it.

    The joint is a sum, or where the stride is 2 a concatenation with x pooled to half size. The
    ReLU after it belongs to the stage.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.halves = stride == 2
        branch = channels - in_channels if self.halves else channels
        narrow = branch // 4
        # the stem has too few channels to be grouped
        self.groups = 1 if in_channels == STEM else GROUPS

        self.conv1 = nn.Conv2d(in_channels, narrow, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, groups=narrow, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, branch, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.channel_shuffle(out, self.groups)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))  # [N, branch, H/stride, W/stride]
        if not self.halves:
            return out + x

        pooled = F.avg_pool2d(x, 3, stride=2, padding=1)  # [N, in_channels, H/2, W/2]
        return torch.cat([out, pooled], 1)  # [N, channels, H/2, W/2]


@MODELS.register("ShuffleV1")
class ShuffleNetV1(CifarNet):
    """A 1x1 stem at full size, then three stages, each at half the size of the one before.

    The initialisation is PyTorch's default.

    Args:
        num_classes: length of the logits.
    """

    head = "linear"

    def __init__(self, num_classes: int):
        super().__init__([STEM, *WIDTHS])
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)

        self.layer1 = _stage(BLOCKS[0], STEM, WIDTHS[0])
        self.layer2 = _stage(BLOCKS[1], WIDTHS[0], WIDTHS[1])
        self.layer3 = _stage(BLOCKS[2], WIDTHS[1], WIDTHS[2])

        self.linear = nn.Linear(WIDTHS[2], num_classes)

    def maps(self, image: Tensor) -> Maps:
        stem = F.relu(self.bn1(self.conv1(image)))  # [N, STEM, H, W]
        feats, preact_feats = run_stages(stem, [self.layer1, self.layer2, self.layer3])
        return feats, preact_feats, feats[-1]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [stage.last.bn3 for stage in (self.layer1, self.layer2, self.layer3)]


def _stage(blocks: int, in_channels: int, channels: int) -> Stage[ShuffleUnit]:
    following = [ShuffleUnit(channels, channels, stride=1) for _ in range(blocks - 1)]
    return Stage(ShuffleUnit(in_channels, channels, stride=2), *following)

"""ShuffleNetV2 at width 1 for CIFAR: half of the channels passes each unit untouched.

Source: Ma et al. 2018, figure 3.

Every unit ends in relu(shuffle(concat)). mdistiller applies the ReLU to the new half alone and then
concatenates and shuffles, which is the same, values and gradients, since the untouched half comes
out of an earlier ReLU; only its `preact_feats` keep the channels in the order before the shuffle,
while here they are in the order of `feats`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.models.base import CifarNet, Maps, Stage, run_stages
from sdkd_plugin.registry import MODELS

STEM = 24
UNITS = (3, 7, 3)  # after the one that halves the map
WIDTHS = (116, 232, 464)
LAST = 1024


class BasicUnit(nn.Module):
    """Splits the channels; 1x1, 3x3 depthwise, 1x1 on the second half; joins and shuffles.

    The ReLU belongs to the stage.
    """

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        untouched, out = x.chunk(2, dim=1)  # [N, C/2, H, W] each
        out = F.relu(self.bn1(self.conv1(out)), inplace=True)
        out = self.bn2(self.conv2(out))
        out = self.bn3(self.conv3(out))
        return F.channel_shuffle(torch.cat([untouched, out], 1), 2)  # [N, C, H, W]


class DownUnit(nn.Module):
    """Two branches over all channels, each halving the map; joins and shuffles.

    Each branch gives half of the new channels. The ReLU belongs to the stage.
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        whole = in_channels
        half = channels // 2

        # the left branch
        self.conv1 = nn.Conv2d(whole, whole, 3, 2, padding=1, groups=whole, bias=False)
        self.bn1 = nn.BatchNorm2d(whole)
        self.conv2 = nn.Conv2d(whole, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)

        # the right branch
        self.conv3 = nn.Conv2d(whole, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))  # [N, C/2, H/2, W/2]

        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))  # [N, C/2, H/2, W/2]

        return F.channel_shuffle(torch.cat([left, right], 1), 2)  # [N, C, H/2, W/2]


@MODELS.register("ShuffleV2")
class ShuffleNetV2(CifarNet):
    """A 1x1 stem at full size, three stages, a last 1x1 convolution.

    The initialisation is PyTorch's default.

    Args:
        num_classes: length of the logits.
    """

    head = "linear"

    def __init__(self, num_classes: int):
        super().__init__([STEM, *WIDTHS])
        self.conv1 = nn.Conv2d(3, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)

        self.layer1 = _stage(UNITS[0], STEM, WIDTHS[0])
        self.layer2 = _stage(UNITS[1], WIDTHS[0], WIDTHS[1])
        self.layer3 = _stage(UNITS[2], WIDTHS[1], WIDTHS[2])

        self.conv2 = nn.Conv2d(WIDTHS[2], LAST, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(LAST)
        self.linear = nn.Linear(LAST, num_classes)

    def maps(self, image: Tensor) -> Maps:
        stem = F.relu(self.bn1(self.conv1(image)))  # [N, STEM, H, W]
        feats, preact_feats = run_stages(stem, [self.layer1, self.layer2, self.layer3])
        head_in = F.relu(self.bn2(self.conv2(feats[-1])), inplace=True)  # [N, LAST, H/8, W/8]
        return feats, preact_feats, head_in

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """There are none: half of a stage's channels passes its last unit untouched.

        Raises:
            UserError: always, since no norm covers all channels of a stage.
        """
        raise UserError(
            "ShuffleV2 has no norm before the ReLU that covers all channels of a stage, "
            "which OFD needs of its teacher: choose another DISTILLER.TEACHER for it"
        )


def _stage(units: int, in_channels: int, channels: int) -> Stage:
    first = DownUnit(in_channels, channels)
    return Stage(first, *[BasicUnit(channels) for _ in range(units)])

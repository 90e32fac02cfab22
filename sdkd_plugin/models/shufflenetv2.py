"""ShuffleNetV2 at width 1 for CIFAR: half of the channels passes each unit untouched (Ma et al.
2018, figure 3).

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
    """Splits the channels; 1x1, 3x3 depthwise, 1x1 on the second half; joins and shuffles. The ReLU
    belongs to the stage.
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
        return F.channel_shuffle(torch.cat([untouched, out], 1), 2)


class DownUnit(nn.Module):
    """Two branches over all channels, each halving the map and giving half of the new channels;
    joins and shuffles.
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(
            in_channels, in_channels, 3, 2, padding=1, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))
        return F.channel_shuffle(torch.cat([left, right], 1), 2)


@MODELS.register("ShuffleV2")
class ShuffleNetV2(CifarNet):
    """A 1x1 stem at full size, three stages, a last 1x1 convolution. PyTorch's default
    initialisation.

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
        stem = F.relu(self.bn1(self.conv1(image)))
        feats, preact_feats = run_stages(stem, [self.layer1, self.layer2, self.layer3])
        return feats, preact_feats, F.relu(self.bn2(self.conv2(feats[-1])), inplace=True)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """Raises UserError: half of a stage's channels passes its last unit untouched, so no norm
        covers all of them.
        """
        raise UserError(
            "ShuffleV2 has no norm before the ReLU that covers all channels of a stage, which OFD "
            "needs of its teacher: "
            "choose another DISTILLER.TEACHER for it"
        )


def _stage(units: int, in_channels: int, channels: int) -> Stage:
    return Stage(DownUnit(in_channels, channels), *[BasicUnit(channels) for _ in range(units)])

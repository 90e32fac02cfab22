"""MobileNetV2 at half width for CIFAR: inverted residuals with linear outputs.

Source: Sandler et al. 2018, table 2.
"""

from typing import cast

from torch import Tensor, nn

from sdkd_plugin.models.base import CifarNet, Maps, conv_norm, init_convolutions, last_norm
from sdkd_plugin.registry import MODELS

STEM = 16
LAST = 1280  # not halved
SETTINGS = (  # expansion, channels (half of the paper's), blocks, stride of the first
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
STAGE_ENDS = (1, 2, 4, 6)  # the entries of SETTINGS that `feats` shows


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; plus x where the shape allows."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int):
        super().__init__()
        self.residual = stride == 1 and in_channels == channels
        wide = in_channels * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)  # [N, channels, H/stride, W/stride]
        return x + out if self.residual else out


@MODELS.register("MobileNetV2")
class MobileNetV2(CifarNet):
    """MobileNetV2 whose stem already halves the image.

    A stage's output is linear, so `preact_feats` are `feats`; mdistiller leaves them out.

    Args:
        num_classes: length of the logits.
    """

    head = "classifier"

    def __init__(self, num_classes: int):
        super().__init__([STEM] + [SETTINGS[i][1] for i in STAGE_ENDS])
        self.conv1 = conv_norm(3, STEM, 3, stride=2).append(nn.ReLU(inplace=True))

        self.blocks = nn.ModuleList()
        in_channels = STEM
        for expansion, channels, count, stride in SETTINGS:
            self.blocks.append(_stage(count, in_channels, channels, stride, expansion))
            in_channels = channels

        self.conv2 = conv_norm(in_channels, LAST, 1).append(nn.ReLU(inplace=True))
        linear = nn.Linear(LAST, num_classes)
        self.classifier = nn.Sequential(linear)

        init_convolutions(self)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)

    def maps(self, image: Tensor) -> Maps:
        x = self.conv1(image)  # [N, STEM, H/2, W/2]
        feats = [x]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in STAGE_ENDS:
                feats.append(x)

        head_in = self.conv2(x)  # [N, LAST, H/16, W/16]
        return feats, list(feats), head_in

    def classifier_module(self) -> nn.Linear:
        return cast(nn.Linear, self.classifier[0])

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last norm of each stage, which gives the stage's map its scale; no ReLU follows."""
        return [last_norm(self.blocks[i]) for i in STAGE_ENDS]


def _stage(
    blocks: int, in_channels: int, channels: int, stride: int, expansion: int
) -> nn.Sequential:
    following = [InvertedResidual(channels, channels, 1, expansion) for _ in range(blocks - 1)]
    return nn.Sequential(InvertedResidual(in_channels, channels, stride, expansion), *following)

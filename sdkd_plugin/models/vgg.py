"""VGG with batch norm for CIFAR: five blocks of 3x3 convolutions; vgg8 has one in each.

Source: Simonyan and Zisserman 2015, table 1.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.models.base import CifarNet, Maps, init_convolutions, last_norm
from sdkd_plugin.registry import MODELS

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {  # per block
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


class HalvingPool(nn.MaxPool2d):
    """2x2 max pooling that says so when the map has nothing left to halve."""

    def __init__(self) -> None:
        super().__init__(kernel_size=2)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < 2:
            size = "x".join(str(side) for side in x.shape[2:])
            raise UserError(
                f"vgg cannot halve a map of {size} any more: choose images of 8x8 pixels or "
                "more, or another model"
            )
        return super().forward(x)


class VGG(CifarNet):
    """Five blocks, each of which returns its map before the last ReLU.

    Three halvings lie between the blocks, a fourth from 64 pixels on.

    Args:
        convolutions: how many each of the five blocks has.
        num_classes: length of the logits.
    """

    head = "classifier"

    def __init__(self, convolutions: tuple[int, int, int, int, int], num_classes: int):
        super().__init__(WIDTHS)
        self.block0 = _block(convolutions[0], 3, WIDTHS[0])
        self.pool0 = HalvingPool()
        self.block1 = _block(convolutions[1], WIDTHS[0], WIDTHS[1])
        self.pool1 = HalvingPool()
        self.block2 = _block(convolutions[2], WIDTHS[1], WIDTHS[2])
        self.pool2 = HalvingPool()
        self.block3 = _block(convolutions[3], WIDTHS[2], WIDTHS[3])
        self.pool3 = HalvingPool()
        self.block4 = _block(convolutions[4], WIDTHS[3], WIDTHS[4])
        self.classifier = nn.Linear(WIDTHS[4], num_classes)

        init_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def maps(self, image: Tensor) -> Maps:
        stem = F.relu(self.block0(image))  # [N, WIDTHS[0], H, W]
        preact1 = self.block1(self.pool0(stem))
        feat1 = F.relu(preact1)
        preact2 = self.block2(self.pool1(feat1))
        feat2 = F.relu(preact2)
        preact3 = self.block3(self.pool2(feat2))
        feat3 = F.relu(preact3)  # [N, WIDTHS[3], H/8, W/8]

        large = min(feat3.shape[2:]) >= 8  # an image of 64 pixels or more
        preact4 = self.block4(self.pool3(feat3) if large else feat3)
        feat4 = F.relu(preact4)  # [N, WIDTHS[4], H/16, W/16] if large, else of feat3's size

        feats = [stem, feat1, feat2, feat3, feat4]
        preact_feats = [stem, preact1, preact2, preact3, preact4]
        return feats, preact_feats, feat4

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [last_norm(block) for block in (self.block1, self.block2, self.block3, self.block4)]


def _block(convolutions: int, in_channels: int, channels: int) -> nn.Sequential:
    """Without the last ReLU, which `VGG.maps` applies."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers.append(nn.Conv2d(in_channels, channels, 3, padding=1))
        layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
        in_channels = channels
    return nn.Sequential(*layers[:-1])


for _name, _convolutions in CONVOLUTIONS.items():
    MODELS.register(_name)(partial(VGG, _convolutions))

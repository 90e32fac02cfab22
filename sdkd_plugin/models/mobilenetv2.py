"""MobileNetV2 at half width for CIFAR: inverted residuals with linear outputs (Sandler et al. 2018,
table 2).
"""

from torch import Tensor, nn

from sdkd_plugin.models.base import CifarNet, Maps, conv_norm, init_convolutions
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
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


@MODELS.register("MobileNetV2")
class MobileNetV2(CifarNet):
    """The stem already halves the image. A stage's output is linear, so `preact_feats` are `feats`,
    which mdistiller leaves out.

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
            following = [
                InvertedResidual(channels, channels, 1, expansion) for _ in range(count - 1)
            ]
            self.blocks.append(
                nn.Sequential(
                    InvertedResidual(in_channels, channels, stride, expansion), *following
                )
            )
            in_channels = channels
        self.conv2 = conv_norm(in_channels, LAST, 1).append(nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Linear(LAST, num_classes))
        init_convolutions(self)
        nn.init.normal_(self.classifier[0].weight, std=0.01)
        nn.init.zeros_(self.classifier[0].bias)

    def maps(self, image: Tensor) -> Maps:
        x = self.conv1(image)
        feats = [x]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in STAGE_ENDS:
                feats.append(x)
        return feats, list(feats), self.conv2(x)

    def classifier_module(self) -> nn.Linear:
        return self.classifier[0]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last norm of each stage; no ReLU follows it, but it is where the stage's map gets its
        scale.
        """
        return [self.blocks[i][-1].conv[-1] for i in STAGE_ENDS]

"""plain8: eight layers without shortcuts, what a ResNet is compared with (He et al. 2016, section
4.2).
"""

from torch import Tensor, nn

from sdkd_plugin.models.base import CifarNet, Maps, Stage, conv_norm, init_convolutions, run_stages
from sdkd_plugin.models.families import Family
from sdkd_plugin.registry import MODELS

WIDTHS = (16, 16, 32, 64)  # channels of the stem and of the three stages
STAGES = ("body1", "body2", "body3")


@MODELS.register("plain8")
class PlainNet(CifarNet):
    """A 3x3 convolution, three stages of two, a linear layer; each stage but the first halves the
    map.

    Args:
        num_classes: length of the logits.
    """

    # its children have names of their own, so it says where its stages are, for SDKD
    family = Family("plain", ("stem", *STAGES), STAGES, "feats", pair=True, signed=False)

    def __init__(self, num_classes: int):
        super().__init__(WIDTHS)
        self.stem = conv_norm(3, WIDTHS[0], 3).append(nn.ReLU())
        self.body1 = _stage(WIDTHS[0], WIDTHS[1], stride=1)
        self.body2 = _stage(WIDTHS[1], WIDTHS[2], stride=2)
        self.body3 = _stage(WIDTHS[2], WIDTHS[3], stride=2)
        self.fc = nn.Linear(WIDTHS[3], num_classes)
        init_convolutions(self)

    def maps(self, image: Tensor) -> Maps:
        feats, preact_feats = run_stages(self.stem(image), [self.body1, self.body2, self.body3])
        return feats, preact_feats, feats[-1]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [body[-1][-1] for body in (self.body1, self.body2, self.body3)]


def _stage(in_channels: int, channels: int, stride: int) -> Stage:
    return Stage(conv_norm(in_channels, channels, 3, stride), conv_norm(channels, channels, 3))

"""What all models of the zoo share: the contract, the stage that ends in a ReLU, He's init."""

from collections.abc import Callable, Iterable
from typing import Generic, TypedDict, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdkd_plugin.models.families import Family

Maps = tuple[list[Tensor], list[Tensor], Tensor]  # feats, preact_feats, head_in
Block = TypeVar("Block", bound=nn.Module)


class Feats(TypedDict):
    """What a model returns beside its logits.

    Args:
        feats: maps [N, C, H, W], one after the stem and one after each stage.
        preact_feats: the same before their ReLU; the stem's entry is the one of `feats`.
        head_in: [N, D, H, W] exactly the map whose global average is `pooled_feat`.
        pooled_feat: [N, D].
    """

    feats: list[Tensor]
    preact_feats: list[Tensor]
    head_in: Tensor
    pooled_feat: Tensor


class CifarNet(nn.Module):
    """Images [N, 3, H, W] -> `(logits [N, K], feats)`; a family adds its layers and `maps`.

    What methods must know of a family stands with the model: `maps_through`, `fold_affine`,
    `get_bn_before_relu`, and `family`, which says where its stages are. Those of this package are
    found by the names of their children (families.py), as mdistiller's are, which declare nothing;
    a model from outside with names of its own declares a Family as class attribute or property.
    """

    head = "fc"  # the child behind the global average; everything else computes features
    family: Family | None = None

    def __init__(self, stage_channels: Iterable[int]):
        super().__init__()
        self.stage_channels = list(stage_channels)

    def maps(self, image: Tensor) -> Maps:
        """Computes everything before the head."""
        raise NotImplementedError

    def maps_through(self, image: Tensor, insert: Callable[[Tensor], Tensor]) -> Maps:
        """`maps` with `insert` applied to the last map [N, D, H, W], before the global average.

        A family that ends in a norm and a ReLU of its own (WRN) applies it before these.
        """
        feats, preact_feats, head_in = self.maps(image)
        return feats, preact_feats, insert(head_in)

    @torch.no_grad()
    def fold_affine(self, matrix: Tensor, shift: Tensor) -> None:
        """Makes p -> A p + c, as the `insert` of `maps_through`, a part of the model.

        From now on the model computes what it did with that `insert`, at every position. Here the
        average follows at once, so that the classifier can take it in:
        W (A p + c) + b = (W A) p + (W c + b).
        A family that overrides `maps_through` overrides this, too.

        Args:
            matrix: A [D, D], float64.
            shift: c [D], float64.
        """
        head = self.classifier_module()
        weight = head.weight.double()
        head.bias.copy_(weight @ shift + head.bias.double())
        head.weight.copy_(weight @ matrix)

    def forward(self, image: Tensor) -> tuple[Tensor, Feats]:
        feats, preact_feats, head_in = self.maps(image)
        logits, pooled = self.forward_head(head_in)
        return logits, {
            "feats": feats,
            "preact_feats": preact_feats,
            "head_in": head_in,
            "pooled_feat": pooled,
        }

    def forward_head(self, head_in: Tensor) -> tuple[Tensor, Tensor]:
        """Global average over H and W, then the classifier.

        Args:
            head_in: [N, D, H, W], any H and W.
        Returns:
            logits [N, K] and the pooled feature [N, D].
        """
        pooled = head_in.mean((2, 3))  # [N, D]
        return self.classifier_module()(pooled), pooled

    def classifier_module(self) -> nn.Linear:
        """The final linear layer, D -> K."""
        return getattr(self, self.head)

    def get_stage_channels(self) -> list[int]:
        """The channels of `feats`, stem included."""
        return list(self.stage_channels)

    def get_feat_modules(self) -> nn.ModuleList:
        """Every child but the head, in the order of the forward pass."""
        return nn.ModuleList(child for name, child in self.named_children() if name != self.head)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """For each stage after the stem, the norm whose output leads into the ReLU.

        OFD reads its margins there.
        """
        raise NotImplementedError


class Stage(nn.Sequential, Generic[Block]):
    """Blocks that stop short of their final ReLU, which stands here.

    Returns the last map after and before that ReLU, [N, C, H, W] each.
    """

    @property
    def last(self) -> Block:
        """The last block."""
        return cast(Block, self[-1])  # torch promises no more than a Module

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        last = len(self) - 1
        for i, block in enumerate(self):
            preact = block(x)  # [N, C, H, W]
            # the last pre-activation is handed out and must survive
            x = F.relu(preact, inplace=i < last)
        return x, preact


def run_stages(x: Tensor, stages: Iterable[nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
    """Feeds the stem's output through stages that return (out, preact); only `out` goes on.

    Returns:
        feats and preact_feats, the stem's output first.
    """
    feats = [x]
    preact_feats = [x]
    for stage in stages:
        x, preact = stage(x)
        feats.append(x)
        preact_feats.append(preact)
    return feats, preact_feats


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A same-padded convolution without bias, then its norm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def convolution(layers: nn.Sequential) -> nn.Conv2d:
    """The convolution of `conv_norm`."""
    return cast(nn.Conv2d, layers[0])


def last_norm(layers: nn.Module) -> nn.BatchNorm2d:
    """The last norm of layers that stand in the order in which they run."""
    return [layer for layer in layers.modules() if isinstance(layer, nn.BatchNorm2d)][-1]


def init_convolutions(net: nn.Module) -> None:
    """Draws every convolution from N(0, 2 / (k^2 C_out)), biases 0.

    Depthwise convolutions count all output channels too, as mdistiller does. Norms start at 1 and
    0 by themselves.

    Source: He et al. 2015, eq. 14, backward case.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

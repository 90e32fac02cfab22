"""The network that a file for deployment holds: images in, logits out, nothing else."""

from typing import cast

import torch
from torch import Tensor, nn

from sdkd_plugin.models.library import LibraryModel


class Deployed(nn.Module):
    """Images [N, 3, H, W] to logits [N, K]: (x - mean) / std, then the network.

    Args:
        network: as `engine.deploy.load_network` gives it; a library's is taken out of its wrapper.
        mean, std: per channel, of pixel values in [0, 1]; None: the images come normalised.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ):
        super().__init__()
        self.alone = isinstance(network, LibraryModel)
        if isinstance(network, LibraryModel):
            network.unwatch()
        self.network = cast(nn.Module, network.net) if self.alone else network
        self.normalises = mean is not None
        for name, values in (("mean", mean or (0.0,) * 3), ("std", std or (1.0,) * 3)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        if self.normalises:
            image = (image - self.mean) / self.std
        return self.network(image) if self.alone else self.network(image)[0]

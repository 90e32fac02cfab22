"""The second, strongly augmented view of an image: torchvision's RandAugment, drawn by key."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandAugment

from sdkd_plugin.randomness import cpu_seeded

OPERATIONS = 2  # drawn for each image, in turn
MAGNITUDE = 10  # of each, on torchvision's scale from 0 to 30


def strengthen(images: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
    """RandAugment of images that are cropped and mirrored already.

    What is drawn for an image depends on (seed, epoch, its position) alone.

    Args:
        images: [N, H, W, 3] uint8.
        index: [N], positions in the training set.
        epoch: 1-based.
    Returns:
        [N, H, W, 3] uint8, on the images' device.
    Source: Cubuk et al. 2020, arXiv 1909.13719, as torchvision has it.
    """
    augment = RandAugment(OPERATIONS, MAGNITUDE)
    made = []
    for pixels, position in zip(images.cpu().numpy(), index.tolist(), strict=True):
        with cpu_seeded(seed, "strong", epoch, position):
            made.append(np.asarray(augment(Image.fromarray(pixels))))
    return torch.from_numpy(np.stack(made)).to(images.device)

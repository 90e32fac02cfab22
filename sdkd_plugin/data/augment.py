"""Crop, flip and normalise whole batches of uint8 images.

Sample by sample the result is that of torchvision's transforms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from sdkd_plugin.randomness import keyed_generator


@dataclass(frozen=True)
class EpochTable:
    """All that is random about the images of one epoch.

    Args:
        order: [N] a permutation of the training set.
        top, left: [N] crop offsets of each training image in its padded frame, in [0, 2 padding].
        flip: [N] bool, whether each training image is mirrored.
    """

    order: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor


def epoch_table(
    count: int, padding: int, seed: int, epoch: int, device: torch.device, view: str = "epoch"
) -> EpochTable:
    """Draws the table of one epoch; it depends on its arguments alone.

    Args:
        count: number of training images.
        padding: pixels added at each side before cropping.
        epoch: 1-based.
        view: part of the key; another view's crops are independent.
    """
    generator = keyed_generator(seed, view, epoch)
    order = generator.permutation(count)
    top, left = generator.integers(0, 2 * padding + 1, size=(2, count))
    flip = generator.integers(0, 2, size=count).astype(bool)

    columns = (order, top, left, flip)  # [N] each
    return EpochTable(*(torch.from_numpy(column).to(device) for column in columns))


def default_padding(size: int) -> int:
    """Pixels of padding for images of this height: an eighth of it, so 4 at 32, but at least 1."""
    return max(1, round(size / 8))


def crop_flip(
    images: Tensor, padding: int, top: Tensor, left: Tensor, flip: Tensor | None
) -> Tensor:
    """Pads with zero pixels, cuts a window of the old size, then mirrors it where `flip` is set.

    Crop and flip are one gather of whole pixels, whose cost does not depend on what was drawn.

    Args:
        images: [N, H, W, 3] uint8.
        top, left: [N] the window's corner in the padded image, in [0, 2 padding].
        flip: [N] bool, or None to mirror none.
    """
    count, height, width, _ = images.shape
    padded = pad(images, (0, 0, padding, padding, padding, padding))  # [N, H+2p, W+2p, 3]

    columns = torch.arange(width, device=images.device).expand(count, width)
    if flip is not None:
        columns = torch.where(flip[:, None], width - 1 - columns, columns)
    columns = columns + left[:, None]  # [N, W]

    # numbered through the whole batch
    rows = torch.arange(height, device=images.device) + top[:, None]  # [N, H]
    rows = rows + torch.arange(count, device=images.device)[:, None] * padded.shape[1]
    pixels = rows[:, :, None] * padded.shape[2] + columns[:, None, :]  # [N, H, W]
    return padded.view(-1, 3).index_select(0, pixels.view(-1)).view(images.shape)


class Normalize:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W]: (x / 255 - mean) / std per channel.

    It is computed as one multiply-add.

    Args:
        mean, std: per channel, of pixel values in [0, 1].
        width: of the images; the channel constants are repeated along a row, which lets the CPU
            vectorise.
        channels_last: memory format of the result.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        width: int,
        channels_last: bool,
        device: torch.device,
    ):
        centre = torch.tensor(mean, dtype=torch.float64)  # [3]
        spread = torch.tensor(std, dtype=torch.float64)  # [3]
        self.scale = (1 / (255 * spread)).repeat(width).float().to(device)  # [W * 3]
        self.shift = (-centre / spread).repeat(width).float().to(device)  # [W * 3]
        self.channels_last = channels_last

    def __call__(self, images: Tensor) -> Tensor:
        rows = images.flatten(2).to(torch.float32, copy=True)  # [N, H, W * 3]
        # in place, since a large batch's memory is new to the process each time
        scaled = torch.addcmul(self.shift, rows, self.scale, out=rows).view(images.shape)
        image = scaled.permute(0, 3, 1, 2)  # [N, 3, H, W]
        return image if self.channels_last else image.contiguous()

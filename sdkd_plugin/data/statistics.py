"""Mean and standard deviation of a data set's pixels, per channel.

They are found by counting, so they are exact and the same on every machine.
"""

import torch
from torch import Tensor

_CHUNK = 1000  # images; bounds the copy that counting needs
DECIMALS = 4  # so that they can be printed, typed and recorded


def count_levels(images: Tensor) -> Tensor:
    """How often each channel has each of its 256 values: [3, 256] int64.

    Args:
        images: [N, H, W, 3] uint8.
    """
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for chunk in images.split(_CHUNK):
        for channel in range(3):
            counts[channel] += torch.bincount(chunk[..., channel].flatten(), minlength=256)
    return counts


def mean_and_std(counts: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel, rounded to DECIMALS.

    They are of pixel values in [0, 1]. A channel whose values are all alike, or so nearly that its
    deviation rounds to 0, gets the deviation 1: normalised, it is 0 everywhere and tells nothing,
    as before.

    Args:
        counts: [3, 256] from `count_levels`, of one pixel or more.
    """
    value = torch.arange(256, dtype=torch.float64) / 255  # [256]
    share = counts / counts.sum(1, keepdim=True, dtype=torch.float64)  # [3, 256]
    mean = (share * value).sum(1)  # [3]
    std = (share * (value - mean[:, None]).square()).sum(1).sqrt()  # [3]

    centres = tuple(round(centre, DECIMALS) for centre in mean.tolist())
    spreads = tuple(round(spread, DECIMALS) or 1.0 for spread in std.tolist())
    return centres, spreads

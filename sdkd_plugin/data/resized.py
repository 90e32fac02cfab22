"""DATASET.TRANSFORM imagenet: crops resized to one square, as torchvision's classification
references train and evaluate. What is random is a function of (seed, epoch, sample).
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from sdkd_plugin.randomness import keyed_generator

# of a random crop: its share of the image's area, and its width by its height
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


class Box(NamedTuple):
    """A window of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_box(height: int, width: int, seed: int, epoch: int, sample: int) -> Box:
    """The window of a training image that an epoch sees.

    Its area is uniform in AREA of the image's, its ratio log-uniform in RATIO; drawn again until
    it fits, and after _ATTEMPTS the largest centred window whose ratio is allowed.

    Args:
        sample: position in the training set.
    """
    generator = keyed_generator(seed, "crop", epoch, sample)
    share, ratio, place = generator.random((_ATTEMPTS, 2)).T, RATIO, generator.random(2)
    areas = height * width * (AREA[0] + (AREA[1] - AREA[0]) * share[0])
    low, high = (math.log(end) for end in ratio)
    ratios = np.exp(low + (high - low) * share[1])

    widths = np.rint(np.sqrt(areas * ratios)).astype(int)
    heights = np.rint(np.sqrt(areas / ratios)).astype(int)
    fits = (1 <= widths) & (widths <= width) & (1 <= heights) & (heights <= height)
    if fits.any():
        first = int(fits.argmax())
        inner, outer = (int(heights[first]), int(widths[first])), (height, width)
        top, left = (
            int(where * (whole - part + 1))
            for where, whole, part in zip(place, outer, inner, strict=True)
        )
        return Box(top, left, *inner)

    inner_width = min(width, round(height * RATIO[1]))
    inner_height = min(height, round(width / RATIO[0]))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    return Box(top, left, inner_height, inner_width)


def train_view(pixels: np.ndarray, size: int, box: Box, flip: bool) -> np.ndarray:
    """[size, size, 3] uint8: the window, resized with PIL's bilinear filter, and mirrored.

    Args:
        pixels: [H, W, 3] uint8.
    """
    top, left, height, width = box
    view = _resize(pixels[top : top + height, left : left + width], size, size)
    if flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(view)


def evaluation_view(pixels: np.ndarray, size: int) -> np.ndarray:
    """[size, size, 3] uint8: the shorter side resized to 8/7 of `size` (256 for 224), then the
    centre.

    Args:
        pixels: [H, W, 3] uint8.
    """
    height, width = pixels.shape[:2]
    short = size * 8 // 7
    if height < width:
        height, width = short, int(short * width / height)
    else:
        height, width = int(short * height / width), short
    resized = np.asarray(_resize(pixels, height, width))

    top, left = round((height - size) / 2), round((width - size) / 2)
    return resized[top : top + size, left : left + size]


def _resize(pixels: np.ndarray, height: int, width: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return image.resize((width, height), Image.Resampling.BILINEAR)

"""stripes: a data set from outside, drawn when it is asked for; the direction of the stripes is the
class.
"""

import numpy as np
import torch
from yacs.config import CfgNode

from sdkd_plugin.data.dataset import Dataset, Images
from sdkd_plugin.registry import DATASETS

SIZE = 16  # pixels
CLASSES = ["flat", "rising", "upright", "falling"]


@DATASETS.register("stripes")
def stripes(cfg: CfgNode) -> Dataset:
    """400 images to train and 100 to test, as many of each class; always the same ones."""
    # mirrored, rising stripes fall
    return Dataset("stripes", CLASSES, _drawn(400, seed=0), _drawn(100, seed=1), flips=False)


def _drawn(count: int, seed: int) -> Images:
    generator = np.random.default_rng(seed)
    targets = np.arange(count) % len(CLASSES)
    angle = targets[:, None, None] * np.pi / 4  # [N, 1, 1]
    phase, frequency = generator.uniform((0, 1), (2 * np.pi, 2), (count, 2)).T[..., None, None]
    y, x = np.mgrid[:SIZE, :SIZE]
    waves = np.sin(frequency * (y * np.cos(angle) + x * np.sin(angle)) + phase)  # [N, SIZE, SIZE]

    grey = (127.5 + 100 * waves + generator.normal(0, 20, waves.shape)).clip(0, 255)
    images = np.repeat(grey[..., None], 3, axis=3).astype(np.uint8)  # [N, SIZE, SIZE, 3]
    return Images(torch.from_numpy(images), torch.from_numpy(targets))

"""A config maker, a tiny data set whose images tell which one they are, and an npz reader."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.npz import arrays
from yacs.config import CfgNode as CN

from sdkd_plugin.config import default_config
from sdkd_plugin.data.dataset import Dataset, Images, load_dataset


@pytest.fixture(scope="session")
def make_config() -> Callable[..., CN]:
    """make_config("DATASET.TYPE", "npz", ...) -> the defaults with these values, unchecked."""

    def make(*pairs: object) -> CN:
        cfg = default_config()
        cfg.merge_from_list(list(pairs))
        return cfg

    return make


@pytest.fixture(scope="session")
def toy() -> Dataset:
    """50 + 20 random 8x8 images of 5 classes of unequal size.

    Pixel values start at 1, so padding can be told apart.
    """
    generator = torch.Generator().manual_seed(0)
    train, test = (
        torch.randint(1, 256, (count, 8, 8, 3), generator=generator, dtype=torch.uint8)
        for count in (50, 20)
    )
    targets = torch.arange(50) % 10 % 5
    targets[targets == 4] = torch.tensor([4, 0] * 5)
    return Dataset(
        "toy",
        list("abcde"),
        Images(train, targets),
        Images(test, torch.arange(20) % 5),
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    )


@pytest.fixture
def load(tmp_path: Path, make_config: Callable) -> Callable[..., Dataset]:
    """load(KEY, VALUE, ..., y_train=..., ...) -> the data set of a file with these arrays.

    They stand in place of the good ones; None leaves one out.
    """

    def loaded(*pairs: object, **changes: np.ndarray | None) -> Dataset:
        path = tmp_path / "data.npz"
        np.savez(
            path, **{key: array for key, array in (arrays() | changes).items() if array is not None}
        )
        return load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(path), *pairs))

    return loaded

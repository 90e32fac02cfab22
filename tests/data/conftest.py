"""A config maker and a tiny data set whose images tell which one they are."""

from collections.abc import Callable

import pytest
import torch
from yacs.config import CfgNode as CN

from sdkd_plugin.config import default_config
from sdkd_plugin.data.dataset import Dataset, Images


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

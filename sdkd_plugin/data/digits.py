"""scikit-learn's handwritten digits: a real data set of 1797 images that needs no download."""

import numpy as np
import torch
from yacs.config import CfgNode as CN

from sdkd_plugin.data.dataset import Dataset, Images, choose_per_class
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import DATASETS

_TEST_PER_CLASS = 36  # 360 of 1797: a fifth


@DATASETS.register("digits")
def digits(cfg: CN) -> Dataset:
    """8x8 grey digits as three equal channels: 1437 to train, 360 to test.

    The test images are 36 of each class, always the same ones.

    Raises:
        UserError: scikit-learn is not installed.

    Source: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, as in
    sklearn.datasets.load_digits.
    """
    try:
        from sklearn.datasets import load_digits  # optional, and slow to import
    except ImportError as error:
        raise UserError(
            "DATASET.TYPE digits needs scikit-learn; "
            "install it with: pip install 'sdkd-plugin[demo]'"
        ) from error

    raw = load_digits()  # images [1797, 8, 8], whose values are 0 to 16
    grey = torch.from_numpy(raw.images * (255 / 16)).round().to(torch.uint8)
    images = grey[..., None].repeat(1, 1, 1, 3)  # [1797, 8, 8, 3]
    everything = Images(images, torch.from_numpy(raw.target.astype(np.int64)))

    tested = choose_per_class(everything.targets, [_TEST_PER_CLASS] * 10, "digits")
    trained = np.setdiff1d(np.arange(len(everything)), tested)
    train = everything.take(trained)
    test = everything.take(tested)
    classes = [str(name) for name in raw.target_names]
    return Dataset("digits", classes, train, test, flips=False)

"""The data set that needs no download."""

import sys
from collections.abc import Callable

import pytest
import torch

from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.errors import UserError


def test_split_and_pixels(make_config: Callable) -> None:
    load_digits = pytest.importorskip(
        "sklearn.datasets", reason="needs scikit-learn, the extra 'demo'"
    ).load_digits
    data = load_dataset(make_config("DATASET.TYPE", "digits"))
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert (data.classes, data.flips) == (list("0123456789"), False)
    assert torch.bincount(data.test.targets).tolist() == [36] * 10
    both = torch.cat([data.train.images, data.test.images])
    assert both.dtype == torch.uint8 and both.shape == (1797, 8, 8, 3) and both.max() == 255
    assert (both == both[..., :1]).all()
    raw = load_digits()
    targets = torch.cat([data.train.targets, data.test.targets]).tolist()
    restored = (both[..., 0].double() * 16 / 255).round().flatten(1)
    originals = {
        (tuple(image.ravel()), int(target))
        for image, target in zip(raw.images, raw.target, strict=True)
    }
    assert {
        (tuple(image), target) for image, target in zip(restored.tolist(), targets, strict=True)
    } == originals


def test_without_scikit_learn(make_config: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"pip install 'sdkd-plugin\[demo\]'"):
        load_dataset(make_config("DATASET.TYPE", "digits"))

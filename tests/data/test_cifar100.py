"""CIFAR-100 in torchvision's own file format, with made-up images under patched checksums."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from torchvision.datasets import CIFAR100
from torchvision.datasets import utils as download

from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.errors import UserError

COUNTS = {"train": 6, "test": 4}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with cifar-100-python in it, which torchvision takes for the real one."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    contents = {"meta": {"fine_label_names": ["ant", "bee", "cat"]}}
    for seed, (split, count) in enumerate(COUNTS.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 3 * 32 * 32), np.uint8)
        contents[split] = {
            "data": pixels,
            "fine_labels": [i % 3 for i in range(count)],
            "coarse_labels": [0] * count,
        }
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(
        CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]}
    )
    return tmp_path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No download succeeds; the addresses that were asked for are listed."""
    asked = []

    def refuse(request: object, *_: object, **__: object) -> None:
        asked.append(getattr(request, "full_url", request))
        raise URLError("no\nnetwork")

    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)
    return asked


@pytest.mark.parametrize("allowed", [True, False])
def test_reads_both_splits_without_the_network(
    root: Path, make_config: Callable, offline: list[str], allowed: bool
) -> None:
    data = load_dataset(make_config("DATASET.ROOT", str(root), "DATASET.DOWNLOAD", allowed))
    assert offline == []
    assert (data.name, data.classes, data.flips) == ("cifar100", ["ant", "bee", "cat"], True)
    for seed, (split, images) in enumerate({"train": data.train, "test": data.test}.items()):
        assert images.targets.tolist() == [i % 3 for i in range(COUNTS[split])]
        # [N, C, H, W], as stored
        planes = np.random.default_rng(seed).integers(0, 256, (COUNTS[split], 3, 32, 32), np.uint8)
        assert np.array_equal(images.images.numpy(), planes.transpose(0, 2, 3, 1))


def test_missing_and_not_to_be_downloaded(
    tmp_path: Path, make_config: Callable, offline: list[str]
) -> None:
    with pytest.raises(
        UserError,
        match="cifar-100-python' is not there; set DATASET.DOWNLOAD True, or DATASET.ROOT",
    ):
        load_dataset(make_config("DATASET.ROOT", str(tmp_path), "DATASET.DOWNLOAD", False))
    assert offline == []


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_an_altered_or_missing_file_is_refused(
    root: Path, make_config: Callable, offline: list[str], name: str
) -> None:
    path = root / "cifar-100-python" / name
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    for damage in (lambda: path.write_bytes(content), path.unlink):
        damage()
        with pytest.raises(
            UserError,
            match=r"is incomplete or altered \(MD5 sums differ\); set DATASET.DOWNLOAD True",
        ):
            load_dataset(make_config("DATASET.ROOT", str(root), "DATASET.DOWNLOAD", False))
    assert offline == []


def test_a_failed_download_says_what_to_do(
    tmp_path: Path, make_config: Callable, offline: list[str]
) -> None:
    message = (
        "could not be downloaded to .*no network.*; put cifar-100-python.tar.gz .* DATASET.TYPE npz"
    )
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(make_config("DATASET.ROOT", str(tmp_path)))
    assert "\n" not in str(caught.value)
    assert offline


def test_a_wrong_archive_is_not_unpacked(
    tmp_path: Path, make_config: Callable, offline: list[str]
) -> None:
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"something else")
    with pytest.raises(UserError, match="could not be downloaded"):
        load_dataset(make_config("DATASET.ROOT", str(tmp_path)))

"""Data sets of torchvision in miniature: files in the very layout that its classes read."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from torchvision import datasets

COUNTS = {"train": 12, "test": 5}


def pixels(split: str, *shape: int) -> np.ndarray:
    """Random images of a split, [COUNTS[split], *shape] uint8."""
    generator = np.random.default_rng(len(split))
    return generator.integers(0, 256, (COUNTS[split], *shape), np.uint8)


def labels(split: str, classes: int) -> np.ndarray:
    return np.arange(COUNTS[split]) % classes


def write_idx(root: Path, name: str) -> None:
    """MNIST's, FashionMNIST's and KMNIST's: magic number, sizes, bytes."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for split, stem in (("train", "train"), ("test", "t10k")):
        images = pixels(split, 28, 28)
        for what, array in (("images-idx3", images), ("labels-idx1", labels(split, 10))):
            head = [2048 + array.ndim, *array.shape]
            content = np.array(head, ">u4").tobytes() + array.astype(np.uint8).tobytes()
            (folder / f"{stem}-{what}-ubyte").write_bytes(content)


def write_cifar10(root: Path, patch: Callable) -> None:
    """Pickles of 32x32 images, channels first, with the checksums of what is written here."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    train = pixels("train", 3072)
    parts = {
        f"data_batch_{n}": (train[n - 1 :: 5], labels("train", 10)[n - 1 :: 5].tolist())
        for n in range(1, 6)
    }
    parts["test_batch"] = (pixels("test", 3072), labels("test", 10).tolist())
    for name, (data, own) in parts.items():
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": own}))
    names = [f"class {n}" for n in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))

    sums = {file.name: _md5(file) for file in folder.iterdir()}
    patch(datasets.CIFAR10, "train_list", [[n, sums[n]] for n in sorted(sums) if "data" in n])
    patch(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {**datasets.CIFAR10.meta, "md5": sums["batches.meta"]}
    patch(datasets.CIFAR10, "meta", meta)


def write_svhn(root: Path, patch: Callable) -> None:
    """Matlab files whose digit 0 has the label 10, with the checksums of what is written here."""
    root.mkdir(parents=True, exist_ok=True)
    sums = {}
    for split in COUNTS:
        file = root / f"{split}_32x32.mat"
        own = labels(split, 10)
        stored = {
            "X": pixels(split, 32, 32, 3).transpose(1, 2, 3, 0),
            "y": np.where(own == 0, 10, own)[:, None].astype(np.uint8),
        }
        scipy.io.savemat(file, stored)
        sums[split] = ["", file.name, _md5(file)]
    patch(datasets.SVHN, "split_list", sums)


def write_stl10(root: Path, patch: Callable) -> None:
    """Raw bytes, columns first, labels from 1, with the checksums of what is written here."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split in COUNTS:
        images = pixels(split, 96, 96, 3)  # rows, columns, channels
        (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
        own = (labels(split, 10) + 1).astype(np.uint8)
        (folder / f"{split}_y.bin").write_bytes(own.tobytes())
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    (folder / "unlabeled_X.bin").write_bytes(b"")
    for name in ("train_list", "test_list"):
        listed = getattr(datasets.STL10, name)
        patch(datasets.STL10, name, [[file, _md5(folder / file)] for file, _ in listed])


def write_food101(root: Path) -> None:
    """Files of several sizes, named by json files."""
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for split, count in COUNTS.items():
        named = {"pie": [], "soup": []}
        for number in range(count):
            name = ("pie", "soup")[number % 2]
            image = pixels(split, 40, 40 + number, 3)[number]
            file = folder / "images" / name / f"{split}{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
            named[name].append(f"{name}/{split}{number}")
        (folder / "meta" / f"{split}.json").write_text(json.dumps(named))


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()

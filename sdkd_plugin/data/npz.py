"""Any data set as one numpy file: images, labels and, if wanted, classes' names, mean and std."""

import math
import zipfile
import zlib

import numpy as np
import torch
from yacs.config import CfgNode as CN

from sdkd_plugin.data.cifar100 import MEAN, STD, is_cifar100
from sdkd_plugin.data.dataset import Dataset, Images
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import DATASETS

CONSTANTS = ("mean", "std")
_EXPECTED = "an npz file with x_train, y_train, x_test, y_test and optionally classes, mean and std"
# what numpy and zipfile raise for damaged bytes; MemoryError: a damaged shape
_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


@DATASETS.register("npz")
def npz(cfg: CN) -> Dataset:
    """Reads DATASET.ROOT, a file written by numpy.savez or savez_compressed.

    Arrays: x_train and x_test [N, H, W, 3] uint8; y_train and y_test [N] integers from 0; classes
    [K] strings (without it, the classes are 0 to the largest training label); mean and std [3]
    numbers, of pixel values in [0, 1] (without them, those of x_train; where the contents are
    CIFAR-100's, the constants that everybody uses for it). Pickled contents are never loaded.

    Raises:
        UserError: no such file, not an npz file, or an array that is missing, damaged or malformed,
            which is named.
    """
    path = cfg.DATASET.ROOT
    arrays = _read(path)
    for key in ("y_train", "y_test"):
        _check_labels(key, arrays[key], path)
    names = _names(arrays, path)
    train = _split("train", arrays, path)
    test = _split("test", arrays, path)

    given = {key: _constants(key, arrays[key], path) for key in CONSTANTS if key in arrays}
    if is_cifar100(train, test):
        # the same images get the same constants, whatever file they come from
        given = {"mean": MEAN, "std": STD, **given}
    mean = given.get("mean", ())
    std = given.get("std", ())
    return Dataset("npz", names, train, test, mean=mean, std=std)


def _read(path: str) -> dict[str, np.ndarray]:
    """Every array that is needed and those of the others that are there."""
    try:
        archive = np.load(path, allow_pickle=False)
    except _DAMAGE as error:
        guess = "it is none, or cut short, or a pickle, which is never loaded"
        reason = getattr(error, "strerror", None) or guess
        raise UserError(f"DATASET.ROOT {path!r} cannot be read as {_EXPECTED}: {reason}") from error

    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"DATASET.ROOT {path!r} holds a single array; it must be {_EXPECTED}")

    with archive:
        there = [key for key in ("classes", *CONSTANTS) if key in archive.files]
        keys = ("x_train", "y_train", "x_test", "y_test", *there)
        return {key: _array(archive, key, path) for key in keys}


def _array(archive: np.lib.npyio.NpzFile, key: str, path: str) -> np.ndarray:
    if key not in archive.files:
        raise UserError(
            f"array {key!r} is missing from {path!r}, which holds: {', '.join(archive.files)}; "
            f"it must be {_EXPECTED}"
        )

    try:
        return archive[key]
    except _DAMAGE as error:
        reason = "it is damaged"
        if "pickle" in str(error):
            reason = "it holds pickled objects, which are never loaded"
        raise UserError(
            f"array {key!r} of {path!r} cannot be read: {reason}; "
            "write the file again with numpy.savez"
        ) from error


def _check_labels(key: str, labels: np.ndarray, path: str) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise _malformed(key, path, _form(labels), "integers, [N] with N above 0")
    if labels.min() < 0:
        found = f"holds the label {labels.min()}"
        raise _malformed(key, path, found, "0 to the number of classes - 1")


def _names(arrays: dict[str, np.ndarray], path: str) -> list[str]:
    """The classes' names; raises UserError for a label that has none."""
    classes = arrays.get("classes")
    source = "array 'classes'"
    if classes is None:
        classes = np.arange(arrays["y_train"].max() + 1).astype(str)
        source = "the largest label of 'y_train'"
    elif classes.ndim != 1 or classes.dtype.kind != "U":
        raise _malformed("classes", path, _form(classes), "strings, [number of classes]")

    for key in ("y_train", "y_test"):
        largest = arrays[key].max()
        if largest >= len(classes):
            allowed = f"0 to {len(classes) - 1}, from {source}"
            raise _malformed(key, path, f"holds the label {largest}", allowed)
    return classes.tolist()


def _constants(key: str, array: np.ndarray, path: str) -> tuple[float, ...]:
    allowed = "three finite numbers, one per channel" + (", above 0" if key == "std" else "")
    if array.shape != (3,) or array.dtype.kind not in "fiu":
        raise _malformed(key, path, _form(array), allowed)

    values = tuple(float(value) for value in array)
    if not all(math.isfinite(value) for value in values) or (key == "std" and min(values) <= 0):
        raise _malformed(key, path, f"is {list(values)}", allowed)
    return values


def _split(split: str, arrays: dict[str, np.ndarray], path: str) -> Images:
    key = f"x_{split}"
    images = arrays[key]
    labels = arrays[f"y_{split}"]

    colour = images.ndim == 4 and images.shape[3] == 3 and 0 not in images.shape[1:]
    if images.dtype != np.uint8 or not colour:
        raise _malformed(key, path, _form(images), "uint8, [N, height, width, 3]")
    if len(images) != len(labels):
        allowed = f"{len(labels)}, as 'y_{split}' has labels"
        raise _malformed(key, path, f"has {len(images)} images", allowed)

    pixels = torch.from_numpy(np.ascontiguousarray(images))
    return Images(pixels, torch.from_numpy(labels.astype(np.int64)))


def _form(array: np.ndarray) -> str:
    return f"is {array.dtype} {list(array.shape)}"


def _malformed(key: str, path: str, found: str, allowed: str) -> UserError:
    return UserError(f"array {key!r} of {path!r} {found}; allowed: {allowed}")

"""Any data set as one numpy file: x_train, y_train, x_test, y_test and, if wanted, classes."""

import zipfile
import zlib

import numpy as np
import torch
from yacs.config import CfgNode as CN

from sdkd_plugin.data.dataset import Dataset, Images
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import DATASETS

_EXPECTED = "an npz file with x_train, y_train, x_test, y_test and optionally classes"
# what numpy and zipfile raise for damaged bytes; MemoryError: a damaged shape
_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


@DATASETS.register("npz")
def npz(cfg: CN) -> Dataset:
    """Reads DATASET.ROOT, a file written by numpy.savez or savez_compressed; pickled contents are
    never loaded.

    Arrays: x_train and x_test [N, H, W, 3] uint8; y_train and y_test [N] integers from 0; classes
    [K] strings (without it, the classes are 0 to the largest training label).

    Raises:
        UserError: no such file, not an npz file, or an array that is missing, damaged or malformed,
            which is named.
    """
    path = cfg.DATASET.ROOT
    try:
        archive = np.load(path, allow_pickle=False)
    except _DAMAGE as error:
        reason = (
            getattr(error, "strerror", None)
            or "it is none, or cut short, or a pickle, which is never loaded"
        )
        raise UserError(f"DATASET.ROOT {path!r} cannot be read as {_EXPECTED}: {reason}") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"DATASET.ROOT {path!r} holds a single array; it must be {_EXPECTED}")
    with archive:
        x_train, y_train, x_test, y_test = (
            _array(archive, key, path) for key in ("x_train", "y_train", "x_test", "y_test")
        )
        classes = _array(archive, "classes", path) if "classes" in archive.files else None
    _check_labels("y_train", y_train, path)
    _check_labels("y_test", y_test, path)
    names = (
        [str(label) for label in range(int(y_train.max()) + 1)]
        if classes is None
        else _names(classes, path)
    )
    source = "the largest label of 'y_train'" if classes is None else "array 'classes'"
    for key, labels in (("y_train", y_train), ("y_test", y_test)):
        if labels.max() >= len(names):
            raise _malformed(
                key,
                path,
                f"holds the label {labels.max()}",
                f"0 to {len(names) - 1}, from {source}",
            )
    return Dataset(
        "npz", names, _split("train", x_train, y_train, path), _split("test", x_test, y_test, path)
    )


def _array(archive: "np.lib.npyio.NpzFile", key: str, path: str) -> np.ndarray:
    if key not in archive.files:
        raise UserError(
            f"array {key!r} is missing from {path!r}, which holds: {', '.join(archive.files)}; it "
            f"must be {_EXPECTED}"
        )
    try:
        return archive[key]
    except _DAMAGE as error:
        reason = (
            "it holds pickled objects, which are never loaded"
            if "pickle" in str(error)
            else "it is damaged"
        )
        raise UserError(
            f"array {key!r} of {path!r} cannot be read: {reason}; write the file again with "
            f"numpy.savez"
        ) from error


def _check_labels(key: str, labels: np.ndarray, path: str) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise _malformed(
            key, path, f"is {labels.dtype} {list(labels.shape)}", "integers, [N] with N above 0"
        )
    if labels.min() < 0:
        raise _malformed(
            key, path, f"holds the label {labels.min()}", "0 to the number of classes - 1"
        )


def _names(classes: np.ndarray, path: str) -> list[str]:
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise _malformed(
            "classes",
            path,
            f"is {classes.dtype} {list(classes.shape)}",
            "strings, [number of classes]",
        )
    return classes.tolist()


def _split(split: str, images: np.ndarray, labels: np.ndarray, path: str) -> Images:
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] != 3
        or 0 in images.shape[1:]
    ):
        raise _malformed(
            f"x_{split}",
            path,
            f"is {images.dtype} {list(images.shape)}",
            "uint8, [N, height, width, 3]",
        )
    if len(images) != len(labels):
        raise _malformed(
            f"x_{split}",
            path,
            f"has {len(images)} images",
            f"{len(labels)}, as 'y_{split}' has labels",
        )
    return Images(
        torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))
    )


def _malformed(key: str, path: str, found: str, allowed: str) -> UserError:
    return UserError(f"array {key!r} of {path!r} {found}; allowed: {allowed}")

"""Any data set as one numpy file: images, labels and, if wanted, classes' names, mean and std.

Such files come from strangers. What an array claims to be is checked in its header, for all arrays,
before any of them is read, so that a few wrong bytes cost neither memory nor time.
"""

import io
import itertools
import math
import warnings
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from yacs.config import CfgNode as CN

from sdkd_plugin.data.cifar100 import MEAN, STD, is_cifar100
from sdkd_plugin.data.dataset import Dataset, Images, require_memory
from sdkd_plugin.defaults import MOST_CLASSES
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import require_regular
from sdkd_plugin.printable import printable
from sdkd_plugin.registry import DATASETS

CONSTANTS = ("mean", "std")
_NEEDED = ("x_train", "y_train", "x_test", "y_test")
_EXPECTED = "an npz file with x_train, y_train, x_test, y_test and optionally classes, mean and std"
_NPY = b"\x93NUMPY"  # how a file with a single array begins
_SHOWN = 10  # names of arrays that an error lists
_HEADER_BYTES = 2**16  # more than numpy writes for any array without fields


class Header(NamedTuple):
    """What an array claims to be."""

    dtype: np.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"is {self.dtype} {list(self.shape)}"

    @property
    def nbytes(self) -> int:
        """Size of the data, exact however absurd the shape."""
        return math.prod(self.shape) * self.dtype.itemsize


@DATASETS.register("npz")
def npz(cfg: CN) -> Dataset:
    """Reads DATASET.ROOT, a file written by numpy.savez or savez_compressed.

    Arrays: x_train and x_test [N, H, W, 3] uint8; y_train and y_test [N] integers from 0; classes
    [K] strings (without it, the classes are 0 to the largest training label, each of which must
    occur, or 0 to DATASET.CLASSES - 1); mean and std [3] numbers, of pixel values in [0, 1]
    (without them, those of x_train; where the contents are CIFAR-100's, the constants that
    everybody uses for it). Pickled contents are never loaded.

    Raises:
        UserError: no such file, not an npz file, or an array that is missing, damaged, malformed or
            larger than the memory, which is named.
    """
    path = cfg.DATASET.ROOT
    arrays = _read(path)
    names = _names(arrays, path, cfg.DATASET.CLASSES)
    train = _split("train", arrays)
    test = _split("test", arrays)

    given = {key: _constants(key, arrays[key], path) for key in CONSTANTS if key in arrays}
    if is_cifar100(train, test):
        # the same images get the same constants, whatever file they come from
        given = {"mean": MEAN, "std": STD, **given}
    mean = given.get("mean", ())
    std = given.get("std", ())
    return Dataset("npz", names, train, test, mean=mean, std=std)


def _read(path: str) -> dict[str, np.ndarray]:
    """Every array that is needed and those of the others that are there."""
    with _open(path) as archive:
        there = {name.removesuffix(".npy"): name for name in archive.namelist()}
        keys = (*_NEEDED, *(key for key in ("classes", *CONSTANTS) if key in there))
        absent = [key for key in keys if key not in there]
        if absent:
            held = ", ".join(printable(name) for name in list(there)[:_SHOWN])
            raise UserError(
                f"array {absent[0]!r} is missing from {path!r}, which holds: {held}; it must be "
                f"{_EXPECTED}"
            )
        headers = {key: _header(archive, there[key], key, path) for key in keys}
        for key, header in headers.items():
            _check_header(key, header, path)
        for split in ("train", "test"):
            _check_lengths(split, headers, path)
        require_memory(sum(header.nbytes for header in headers.values()), f"{path!r} unpacked")
        return {key: _array(archive, there[key], key, path) for key in keys}


def _open(path: str) -> zipfile.ZipFile:
    reason = "it is none, or cut short, or a pickle, which is never loaded"
    try:
        require_regular(path)
        with open(path, "rb") as file:
            single = file.read(len(_NPY)) == _NPY
        if not single:
            return zipfile.ZipFile(path)
    except Exception as error:  # damaged bytes make zipfile fail in every way there is
        reason = getattr(error, "strerror", None) or reason
        raise UserError(f"DATASET.ROOT {path!r} cannot be read as {_EXPECTED}: {reason}") from error
    raise UserError(f"DATASET.ROOT {path!r} holds a single array; it must be {_EXPECTED}")


def _header(archive: zipfile.ZipFile, name: str, key: str, path: str) -> Header:
    """What an array claims to be, if its file is as large as that needs."""
    try:
        with archive.open(name) as file:
            start = io.BytesIO(file.read(_HEADER_BYTES))
        version = np.lib.format.read_magic(start)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange literals, and of numpy for Python 2
            shape, _, dtype = readers[version](start)
        header = Header(dtype, shape)
        held = archive.getinfo(name).file_size - start.tell()
    except Exception as error:  # damaged bytes make the header's parser fail in every way there is
        raise _unreadable(key, path, "it is damaged") from error

    if dtype.hasobject:
        raise _unreadable(key, path, "it holds pickled objects, which are never loaded")
    if held != header.nbytes or any(length < 0 for length in shape):
        what = f"it is damaged: {dtype} {list(shape)} takes {header.nbytes} bytes, it has {held}"
        raise _unreadable(key, path, what)
    return header


def _check_header(key: str, header: Header, path: str) -> None:
    """Raises UserError for an array of the wrong type or shape."""
    kind, shape = header.dtype.kind, header.shape
    if key.startswith("x_"):
        allowed = "uint8, [N, height, width, 3]"
        good = header.dtype == np.uint8 and len(shape) == 4 and shape[3] == 3 and 0 not in shape[1:]
    elif key.startswith("y_"):
        allowed = "integers, [N] with N above 0"
        good = kind in "iu" and len(shape) == 1 and shape[0] > 0
    elif key == "classes":
        allowed = f"strings, [number of classes], at most {MOST_CLASSES}"
        good = kind == "U" and len(shape) == 1 and shape[0] <= MOST_CLASSES
    else:
        allowed = _constants_allowed(key)
        good = kind in "fiu" and shape == (3,)
    if not good:
        raise _malformed(key, path, str(header), allowed)


def _check_lengths(split: str, headers: dict[str, Header], path: str) -> None:
    images, labels = (headers[f"{kind}_{split}"].shape[0] for kind in "xy")
    if images != labels:
        allowed = f"{labels}, as 'y_{split}' has labels"
        raise _malformed(f"x_{split}", path, f"has {images} images", allowed)


def _array(archive: zipfile.ZipFile, name: str, key: str, path: str) -> np.ndarray:
    try:
        with archive.open(name) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # as above; zipfile compares the checksum at the end
        raise _unreadable(key, path, "it is damaged") from error


def _split(split: str, arrays: dict[str, np.ndarray]) -> Images:
    pixels = torch.from_numpy(np.ascontiguousarray(arrays[f"x_{split}"]))
    return Images(pixels, torch.from_numpy(arrays[f"y_{split}"].astype(np.int64)))


def _names(arrays: dict[str, np.ndarray], path: str, declared: int) -> list[str]:
    """The classes' names; raises UserError for a label that has none.

    Args:
        declared: DATASET.CLASSES; 0: as the file says.
    """
    labels = {key: arrays[key] for key in ("y_train", "y_test")}
    for key, array in labels.items():
        if array.min() < 0:
            allowed = "0 to the number of classes - 1"
            raise _malformed(key, path, f"holds the label {array.min()}", allowed)

    if "classes" in arrays:
        source, names = "array 'classes'", _texts(arrays["classes"], path)
    elif declared:
        source, names = "DATASET.CLASSES", [str(label) for label in range(declared)]
    else:
        source = "the largest label of 'y_train'"
        _check_gaps(labels["y_train"], path)
        names = [str(label) for label in range(int(labels["y_train"].max()) + 1)]

    for key, array in labels.items():
        if array.max() >= len(names):
            allowed = f"0 to {len(names) - 1}, from {source}"
            raise _malformed(key, path, f"holds the label {array.max()}", allowed)
    return names


def _texts(classes: np.ndarray, path: str) -> list[str]:
    try:
        return classes.tolist()
    except (ValueError, SystemError) as error:  # what numpy raises for what is no character
        raise _unreadable("classes", path, "it is damaged") from error


def _check_gaps(labels: np.ndarray, path: str) -> None:
    """Raises UserError unless every label up to the largest occurs: a gap is more often a slip,
    such as to count from 1, than a class without images.
    """
    present: list[int] = np.unique(labels).tolist()
    largest = present[-1]
    if len(present) == largest + 1:
        return
    lacking = ", ".join(map(str, itertools.islice(_gaps(present), 3)))
    more = " and more" if largest + 1 - len(present) > 3 else ""
    remedy = "number the classes from 0"
    if largest < MOST_CLASSES:
        remedy += f", or declare those without images: DATASET.CLASSES {largest + 1}"
    raise UserError(
        f"array 'y_train' of {path!r} holds labels from {present[0]} to {largest}, but none is "
        f"{lacking}{more}; {remedy}"
    )


def _gaps(present: list[int]) -> Iterator[int]:
    """The numbers from 0 that ascending ones leave out."""
    for before, label in itertools.pairwise([-1, *present]):
        yield from range(before + 1, label)


def _constants_allowed(key: str) -> str:
    return "three finite numbers, one per channel" + (", above 0" if key == "std" else "")


def _constants(key: str, array: np.ndarray, path: str) -> tuple[float, ...]:
    values = tuple(float(value) for value in array)
    if not all(math.isfinite(value) for value in values) or (key == "std" and min(values) <= 0):
        raise _malformed(key, path, f"is {list(values)}", _constants_allowed(key))
    return values


def _unreadable(key: str, path: str, reason: str) -> UserError:
    return UserError(
        f"array {key!r} of {path!r} cannot be read: {reason}; write the file again with numpy.savez"
    )


def _malformed(key: str, path: str, found: str, allowed: str) -> UserError:
    return UserError(f"array {key!r} of {path!r} {found}; allowed: {allowed}")

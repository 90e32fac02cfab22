"""Good npz files come back as written; every kind of bad one is refused by name."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.npz import arrays, npy

from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.errors import UserError


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_reads_back_what_was_written(load: Callable, dtype: type) -> None:
    good = arrays()
    data = load(y_train=good["y_train"].astype(dtype), classes=np.array(["ant", "bee", "cat"]))
    assert data.classes == ["ant", "bee", "cat"] and data.flips and data.evaluates == "test"
    assert data.train.images.equal(torch.from_numpy(good["x_train"])) and data.test.images.equal(
        torch.from_numpy(good["x_test"])
    )
    assert data.train.targets.equal(
        torch.from_numpy(good["y_train"])
    ) and data.test.targets.tolist() == [2, 1, 0, 0]


def test_classes_are_numbers_without_names(load: Callable) -> None:
    assert load().classes == ["0", "1", "2"]


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_missing_array(load: Callable, key: str) -> None:
    with pytest.raises(UserError, match=f"array '{key}' is missing from .*, which holds: "):
        load(**{key: None})


def test_strange_names_are_listed_harmlessly(tmp_path: Path, make_config: Callable) -> None:
    strange = {f"\x1b[2J\n{number}": npy(np.zeros(1)) for number in range(50)}
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in strange.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match=r"which holds: \\x1b\[2J\\n0, .*n9; it must be") as told:
        load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(path)))
    assert "\n" not in str(told.value)


BAD_ARRAYS = {
    "float images": (
        "x_train",
        arrays()["x_train"].astype(np.float32),
        r"is float32 \[6, 4, 4, 3\]; allowed: uint8, \[N, h",
    ),
    "channels first": (
        "x_test",
        np.zeros((4, 3, 4, 4), np.uint8),
        r"is uint8 \[4, 3, 4, 4\]; allowed: uint8, \[N, h",
    ),
    "flat images": ("x_train", np.zeros((6, 48), np.uint8), r"is uint8 \[6, 48\]"),
    "images without pixels": (
        "x_train",
        np.zeros((6, 0, 4, 3), np.uint8),
        r"is uint8 \[6, 0, 4, 3\]",
    ),
    "float labels": ("y_train", np.zeros(6), r"is float64 \[6\]; allowed: integers"),
    "one-hot labels": (
        "y_test",
        np.eye(3, dtype=int),
        r"is int64 \[3, 3\]; allowed: integers, \[N\]",
    ),
    "no labels": ("y_train", np.zeros(0, int), r"is int64 \[0\]"),
    "negative label": (
        "y_train",
        np.array([0, 1, 2, 0, 1, -1]),
        "holds the label -1; allowed: 0 to",
    ),
    "unknown test label": (
        "y_test",
        np.array([0, 1, 2, 3]),
        "holds the label 3; allowed: 0 to 2, from the largest label of 'y_train'",
    ),
    "too many images": (
        "x_train",
        np.zeros((7, 4, 4, 3), np.uint8),
        "has 7 images; allowed: 6, as 'y_train' has labels",
    ),
    "too few images": (
        "x_test",
        arrays()["x_test"][:3],
        "has 3 images; allowed: 4, as 'y_test' has labels",
    ),
    "names as numbers": ("classes", np.arange(3), r"is int64 \[3\]; allowed: strings"),
    "pickled labels": (
        "y_train",
        np.array([0, 1, None, 0, 1, 2]),
        "cannot be read: it holds pickled objects, which are never",
    ),
    "pickled names": (
        "classes",
        np.array(["a", "b", "c"], object),
        "cannot be read: it holds pickled objects, which are never",
    ),
}


@pytest.mark.parametrize("key, array, message", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_array(load: Callable, key: str, array: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=f"array '{key}' of '.*data.npz' {message}"):
        load(**{key: array})


def test_label_without_a_name(load: Callable) -> None:
    with pytest.raises(
        UserError,
        match="array 'y_train' of .* holds the label 2; allowed: 0 to 1, from array 'classes'",
    ):
        load(classes=np.array(["a", "b"]))


def test_one_class(load: Callable) -> None:
    with pytest.raises(UserError, match="'npz' has 1 class; at least 2"):
        load(y_train=np.zeros(6, int), y_test=np.zeros(4, int))


def test_not_an_npz_file(tmp_path: Path, make_config: Callable) -> None:
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no zip file")
    (tmp_path / "empty.npz").touch()
    for name, message in {
        "absent.npz": "No such file or directory",
        ".": "Is a directory",
        "single.npy": "holds a single array; it must be an npz file with x_train",
        "text.npz": "cannot be read as an npz file with x_train, y_train, x_test, y_test",
        "empty.npz": "it is none, or cut short",
    }.items():
        with pytest.raises(UserError, match=message):
            load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(tmp_path / name)))


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.array([0, 1, 2, 0, 1, 2**62]), f"from 0 to {2**62}, but none is 3, 4, 5 and more"),
        (np.array([0, 1, 2, 0, 1, -1]).astype(np.uint32), "from 0 to 4294967295, but none is 3, 4"),
        (np.array([0, 1, 2, 0, 1, -1]).astype(np.uint64), f"from 0 to {2**64 - 1}, but none is 3"),
        (np.array([1, 2, 3, 1, 2, 3]), "from 1 to 3, but none is 0; number .* DATASET.CLASSES 4"),
        (np.array([0, 5, 5, 0, 0, 5]), "from 0 to 5, but none is 1, 2, 3 and more; .*CLASSES 6"),
        (np.array([0, 1, 3, 0, 1, 3]), "from 0 to 3, but none is 2; .*CLASSES 4"),
    ],
)
def test_labels_that_leave_some_out_are_refused(
    load: Callable, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(UserError, match=f"array 'y_train' of .* holds labels {message}") as told:
        load(y_train=labels)
    assert ("DATASET.CLASSES" in str(told.value)) == (labels.max() < 10**6)


def test_labels_may_leave_some_out_if_that_is_declared(load: Callable) -> None:
    gaps = np.array([0, 5, 5, 0, 0, 5])
    test = np.array([5, 0, 0, 5])
    declared = load("DATASET.CLASSES", 7, y_train=gaps, y_test=test)
    assert declared.classes == list("0123456")
    assert load(y_train=gaps, y_test=test, classes=np.array(list("abcdef"))).num_classes == 6
    with pytest.raises(UserError, match="holds the label 5; allowed: 0 to 3, from DATASET.CLASSES"):
        load("DATASET.CLASSES", 4, y_train=gaps, y_test=test)
    with pytest.raises(UserError, match="DATASET.CLASSES is 7 but data set 'npz' names 6 classes"):
        load("DATASET.CLASSES", 7, y_train=gaps, y_test=test, classes=np.array(list("abcdef")))

"""Good npz files come back as written; every kind of bad one is refused by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.errors import UserError


def arrays() -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2, 2, 1, 0, 0])
    return {
        "x_train": pixels[:6],
        "y_train": labels[:6],
        "x_test": pixels[6:],
        "y_test": labels[6:],
    }


@pytest.fixture
def load(tmp_path: Path, make_config: Callable) -> Callable[..., Dataset]:
    """load(y_train=..., ...) -> the data set of a file with these arrays in place of the good ones.

    None leaves one out.
    """

    def loaded(**changes: np.ndarray | None) -> Dataset:
        path = tmp_path / "data.npz"
        np.savez(
            path, **{key: array for key, array in (arrays() | changes).items() if array is not None}
        )
        return load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(path)))

    return loaded


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


def test_pickle_is_not_run(tmp_path: Path, make_config: Callable) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    np.array([Trap()], object).dump(tmp_path / "data.npz")
    with pytest.raises(
        UserError, match="cannot be read as an npz file .* or a pickle, which is never loaded"
    ):
        load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(tmp_path / "data.npz")))
    assert not (tmp_path / "ran").exists()


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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("npz") / "data.npz"
    np.savez_compressed(path, classes=np.array(["a", "b", "c"]), **arrays())
    return path, path.read_bytes()


@settings(deadline=None, max_examples=100)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_is_refused(
    written: tuple[Path, bytes], make_config: Callable, fraction: float
) -> None:
    path, content = written
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(UserError, match="cut short"):
        load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(path)))


@settings(deadline=None, max_examples=300)
@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_damaged_byte_is_refused_or_harmless(
    written: tuple[Path, bytes], make_config: Callable, place: float, bits: int
) -> None:
    path, content = written
    damaged = bytearray(content)
    damaged[int(place * len(content))] ^= bits
    path.write_bytes(damaged)
    try:
        data = load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(path)))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert data.train.images.equal(
            torch.from_numpy(arrays()["x_train"])
        ) and data.test.targets.tolist() == [2, 1, 0, 0]

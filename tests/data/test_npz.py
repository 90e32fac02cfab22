"""Good npz files come back as written; every kind of bad one is refused by name."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdkd_plugin.data import dataset
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
    """load(KEY, VALUE, ..., y_train=..., ...) -> the data set of a file with these arrays.

    They stand in place of the good ones; None leaves one out.
    """

    def loaded(*pairs: object, **changes: np.ndarray | None) -> Dataset:
        path = tmp_path / "data.npz"
        np.savez(
            path, **{key: array for key, array in (arrays() | changes).items() if array is not None}
        )
        return load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(path), *pairs))

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


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def headed(header: str, version: bytes = b"\x01\x00", data: bytes = bytes(6)) -> bytes:
    """An npy file with this header, whatever it says."""
    text = header.encode("latin1")
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + data


def described(shape: str, descr: str = "'|u1'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


def write_members(path: Path, **members: bytes) -> None:
    """An npz file of these npy files and, for the others, the good arrays."""
    files = {key: npy(array) for key, array in arrays().items()} | members
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, content in files.items():
            archive.writestr(f"{key}.npy", content)


BROKEN_HEADERS = {  # what numpy raised for it
    "an open bracket": headed("{'descr': ("),  # TokenError
    "a number": headed("7"),
    "a type that is none": headed(described("(6,)", "'|u99'")),
    "a type without a name": headed(described("(6,)", "(1, 2)")),
    "fields of nothing": headed(described("(6,)", "[()]")),  # AttributeError
    "a stray quote": headed(described("(6,")),  # SyntaxError
    "nested deeply": headed("(" * 5000),  # MemoryError
    "many digits": headed(described(f"({'9' * 5000},)")),  # ValueError
    "an odd escape": headed(described("(6,)", r"'\d'")),  # a warning, too
    "a negative length": headed(described("(-6,)")),
    "a shape that is no tuple": headed(described("6")),
    "a huge shape": headed(described("(9999999999, 32, 32, 3)")),
    "a shape beyond 64 bits": headed(described(f"({10**30}, 32, 32, 3)")),  # OverflowError
    "a huge text": headed(described("(1,)", "'<U2000000000'")),
    "a huge header": headed("", b"\x02\x00")[:8] + b"\xff\xff\xff\xff" + bytes(100),
    "a later version": headed(described("(6,)"), b"\x03\x00"),
    "no magic": b"nonsense",
    "nothing": b"",
}


@pytest.mark.parametrize("content", BROKEN_HEADERS.values(), ids=BROKEN_HEADERS)
@pytest.mark.parametrize("key", ["x_train", "y_test", "classes", "std"])
def test_a_broken_header_is_named(
    tmp_path: Path,
    make_config: Callable,
    key: str,
    content: bytes,
    recwarn: pytest.WarningsRecorder,
) -> None:
    write_members(tmp_path / "data.npz", **{key: content})
    with pytest.raises(
        UserError, match=f"array '{key}' of .* cannot be read: it is damaged"
    ) as told:
        load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(tmp_path / "data.npz")))
    assert "\n" not in str(told.value) and len(str(told.value)) < 500 and not recwarn.list


def test_an_array_larger_than_the_memory_is_not_read(
    load: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = type("Memory", (), {"available": 400})
    monkeypatch.setattr(dataset.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(np.lib.format, "read_array", pytest.fail)
    with pytest.raises(UserError, match="data.npz' unpacked needs 0.0 GiB of memory, 0.0 GiB are"):
        load()


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_refused(tmp_path: Path, make_config: Callable) -> None:
    os.mkfifo(tmp_path / "data.npz")
    with pytest.raises(UserError, match="data.npz' cannot be read as .*: it is no regular file"):
        load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(tmp_path / "data.npz")))


def test_text_that_is_none_is_refused(tmp_path: Path, make_config: Callable) -> None:
    classes = headed(described("(3,)", "'<U1'"), data=b"\xff" * 12)
    write_members(tmp_path / "data.npz", classes=classes)
    with pytest.raises(UserError, match="array 'classes' of .* cannot be read: it is damaged"):
        load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(tmp_path / "data.npz")))


@settings(deadline=None, max_examples=300)
@given(
    key=st.sampled_from(["x_train", "y_train", "classes"]),
    changes=st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=8),
)
def test_a_damaged_header_is_refused_or_read(
    written: tuple[Path, bytes], make_config: Callable, key: str, changes: list[tuple[int, int]]
) -> None:
    path, _ = written
    content = bytearray(npy((arrays() | {"classes": np.array(["a", "b", "c"])})[key]))
    for place, value in changes:
        content[place] = value
    write_members(path, **{key: bytes(content)})
    try:
        load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", str(path)))
    except UserError as error:
        assert "\n" not in str(error)


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

"""npz files that are damaged, or made to harm: refused in a line, before memory is taken."""

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
from support.npz import arrays, npy

from sdkd_plugin.data import dataset
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.errors import UserError


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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("npz") / "data.npz"
    np.savez_compressed(path, classes=np.array(["a", "b", "c"]), **arrays())
    return path, path.read_bytes()


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

"""Tar files of images and classes, as webdataset writes them."""

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.folders import png, require_seven

from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.errors import UserError


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images 0 to 3 of the classes 1 0 2 0 in two training files, 4 to 6 of 0 1 2 in a test file;
    their members in any order, and others among them.
    """
    write_tar(
        tmp_path / "train-000.tar",
        [
            ("a/0.png", png(0)),
            ("a/0.cls", b"1"),
            ("b/0.cls", b"0\n"),
            ("b/0.json", b"{}"),
            ("b/0.png", png(1)),
        ],
    )
    write_tar(
        tmp_path / "train-001.tar",
        [
            ("2.seg.png", png(2)),
            ("2.cls", b" 2"),
            ("README", b"x"),
            ("3.cls", b"0"),
            ("3.PNG", png(3)),
        ],
    )
    tested = [
        (f"{n}.{kind}", png(n) if kind == "png" else str(n - 4).encode())
        for n in (4, 5, 6)
        for kind in ("png", "cls")
    ]
    write_tar(tmp_path / "test.tar", tested)
    return tmp_path


@pytest.fixture
def load(root: Path, make_config: Callable) -> Callable[..., Dataset]:
    def loaded(*pairs: object) -> Dataset:
        own = ("DATASET.TYPE", "webdataset", "DATASET.ROOT", str(root))
        return load_dataset(make_config(*own, *pairs))

    return loaded


def test_samples_are_those_of_the_files_in_their_order(load: Callable) -> None:
    require_seven(load())


def test_val_stands_for_test(load: Callable, root: Path) -> None:
    expected = load().fingerprint
    (root / "test.tar").rename(root / "val-0.tar")
    assert load().fingerprint == expected


@pytest.mark.parametrize("decode", ["once", "always"])
def test_they_are_cached_and_resized_as_files_are(load: Callable, root: Path, decode: str) -> None:
    resized = ("DATASET.TRANSFORM", "imagenet", "DATASET.IMAGE_SIZE", 4)
    expected = load(*resized)
    kept = ("DATASET.DECODE", decode, "DATASET.CACHE", str(root / "cache"))
    for _ in range(2):
        found = load(*resized, *kept)
        assert found.fingerprint == expected.fingerprint and found.mean == expected.mean
        for n in range(4):
            assert np.array_equal(found.train.pixels(n), expected.train.pixels(n))
    os.utime(root / "train-000.tar", ns=(1, 1))
    before = len(list((root / "cache").iterdir()))
    assert load(*resized, *kept).fingerprint == expected.fingerprint
    assert len(list((root / "cache").iterdir())) > before


@pytest.mark.parametrize(
    "members, message",
    [
        ([("0.png", png(0))], "sample '0' of '.*train-000.tar' has no class; DATASET.ROOT must"),
        ([("0.png", png(0)), ("0.cls", b"cat")], "train-000.tar:0.cls is 'cat'; allowed: a class"),
        ([("0.png", png(0)), ("0.cls", b"-1")], "0.cls is '-1'; allowed"),
        ([("0.png", png(0)), ("0.cls", b"9" * 30)], "0.cls is '9999.*allowed: a class number, 0"),
        ([("0.png", b"no image"), ("0.cls", b"0")], "train-000.tar:0.png' cannot be decoded"),
        ([("0.png", png(0)), ("0.cls", "\N{SUPERSCRIPT TWO}".encode())], "allowed: a class"),
    ],
)
def test_a_wrong_sample_is_named(load: Callable, root: Path, members: list, message: str) -> None:
    write_tar(root / "train-000.tar", members)
    with pytest.raises(UserError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_a_class_that_no_training_image_has(load: Callable, root: Path) -> None:
    write_tar(root / "test.tar", [("0.png", png(0)), ("0.cls", b"7")])
    with pytest.raises(UserError, match="test images in .* have the class 7; allowed: 0 to 2"):
        load()
    assert load("DATASET.CLASSES", 8).num_classes == 8


@pytest.mark.parametrize("damage", ["cut", "text", "compressed", "empty", "none"])
def test_a_file_that_is_no_tar_is_one_line(load: Callable, root: Path, damage: str) -> None:
    tar = root / "train-000.tar"
    content = tar.read_bytes()
    if damage == "cut":
        tar.write_bytes(content[:700])
    elif damage == "text":
        tar.write_text("no tar")
    elif damage == "compressed":
        write_tar(tar, [("0.png", png(0)), ("0.cls", b"0")], "w:gz")
    elif damage == "empty":
        for file in root.glob("train*.tar"):
            write_tar(file, [])
    else:
        for file in root.glob("train*.tar"):
            file.unlink()
    wanted = "cut short|cannot be read as a tar file|holds no images|has no train|cannot be decoded"
    with pytest.raises(UserError, match=wanted) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_missing(load: Callable, root: Path) -> None:
    shutil.rmtree(root)
    with pytest.raises(UserError, match="folder '.*' is missing; DATASET.ROOT must hold train"):
        load()

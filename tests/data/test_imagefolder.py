"""Folders of image files: order, sizes, and every way they can be wrong."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from sdkd_plugin.data import dataset
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.errors import UserError


def save(path: Path, seed: int, size: tuple[int, int] = (6, 6)) -> np.ndarray:
    """Writes random pixels, size = (height, width), and returns them."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train: bee 2, ant 1 (written in that order); test: one each."""
    for seed, name in enumerate(
        (
            "train/bee/2.png",
            "train/bee/1.png",
            "train/ant/9.bmp",
            "test/bee/a.PNG",
            "test/ant/b.png",
        )
    ):
        save(tmp_path / name, seed)
    return tmp_path


@pytest.fixture
def load(root: Path, make_config: Callable) -> Callable[..., Dataset]:
    def loaded(*pairs: object) -> Dataset:
        return load_dataset(
            make_config("DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(root), *pairs)
        )

    return loaded


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_classes_and_files_are_sorted(root: Path, load: Callable, workers: int) -> None:
    (root / "train" / "ant" / "notes.txt").write_text("passed over")
    (root / "train" / ".cache").mkdir()
    data = load("DATASET.NUM_WORKERS", workers)
    assert data.classes == ["ant", "bee"] and data.flips
    assert data.train.targets.tolist() == [0, 1, 1] and data.test.targets.tolist() == [0, 1]
    for images, seeds in ((data.train.images, (2, 1, 0)), (data.test.images, (4, 3))):
        expected = [
            np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8) for seed in seeds
        ]
        assert np.array_equal(images.numpy(), expected)


def test_folders_inside_a_class_belong_to_it_as_torchvision_has_it(
    root: Path, load: Callable
) -> None:
    for seed, name in enumerate(("0.png/x.jpg/7.png", "deep/.hidden/8.png", "deep/9.png"), start=5):
        save(root / "train" / "ant" / name, seed)
    (root / "train" / "ant" / "empty.png").mkdir()
    data = load()
    theirs = ImageFolder(str(root / "train"))
    visible = [path for path, _ in theirs.samples if ".hidden" not in path]
    pixels = [np.asarray(Image.open(path)) for path in visible]
    order = np.argsort([str(Path(path).relative_to(root)) for path in visible], kind="stable")
    assert len(data.train) == len(visible) == 5 and data.classes == theirs.classes
    assert np.array_equal(data.train.images.numpy(), [pixels[number] for number in order])


def test_jpeg_grey_palette_and_transparency(root: Path, load: Callable) -> None:
    save(root / "train" / "ant" / "1.jpeg", 5)
    grey = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6))
    grey.save(root / "train" / "ant" / "2.png")
    grey.convert("P").save(root / "train" / "ant" / "3.png")
    grey.convert("RGBA").save(root / "train" / "ant" / "4.png")
    images = load().train.images[:5]
    assert images.shape == (5, 6, 6, 3)
    for image in images[1:4]:
        assert np.array_equal(image.numpy(), np.arange(36).reshape(6, 6, 1).repeat(3, 2))


def test_image_size_shrinks_whatever_the_sizes_are(root: Path, load: Callable) -> None:
    wide = save(root / "train" / "bee" / "3.png", 7, size=(9, 12))
    data = load("DATASET.IMAGE_SIZE", 3)
    assert data.train.images.shape == (4, 3, 3, 3) and data.test.images.shape == (2, 3, 3, 3)
    areas = wide.reshape(3, 3, 3, 4, 3).mean((1, 3)).round()  # 3x4 pixels each
    assert np.array_equal(data.train.images[3].numpy(), areas)
    bitmap = np.random.default_rng(2).integers(0, 256, (6, 6, 3), np.uint8)
    assert np.array_equal(
        data.train.images[0].numpy(), bitmap.reshape(3, 2, 3, 2, 3).mean((1, 3)).round()
    )


def test_different_sizes_need_image_size(root: Path, load: Callable) -> None:
    save(root / "train" / "bee" / "3.png", 7, size=(9, 12))
    with pytest.raises(
        UserError, match=r"'.*9.bmp' is 6x6, '.*bee/3.png' is 12x9; set DATASET.IMAGE_SIZE"
    ):
        load()


@pytest.mark.parametrize("broken", ["refuse", "skip"])  # too small is not broken
def test_an_image_that_would_be_enlarged_is_named(root: Path, load: Callable, broken: str) -> None:
    save(root / "train" / "bee" / "3.png", 7, size=(5, 12))
    with pytest.raises(
        UserError,
        match=r"IMAGE_SIZE is 6 but image '.*bee/3.png' is 12x5 .*allowed: 0 \(as stored\) to 5",
    ):
        load("DATASET.IMAGE_SIZE", 6, "DATASET.BROKEN", broken)


def test_equal_but_not_square_images(root: Path, load: Callable) -> None:
    for path in list(root.rglob("*.*")):
        save(path, 0, size=(4, 6))
    with pytest.raises(
        UserError, match="images are 6x4; they must be square: set DATASET.IMAGE_SIZE"
    ):
        load()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_broken_image_is_named(root: Path, load: Callable, damage: str, workers: int) -> None:
    path = root / "train" / "bee" / "2.png"
    content = path.read_bytes()
    path.write_bytes(
        {"cut": content[: len(content) // 2], "text": b"no image", "empty": b""}[damage]
    )
    with pytest.raises(
        UserError,
        match=r"image '.*train/bee/2.png' cannot be decoded: .*; repair or remove the file",
    ) as caught:
        load("DATASET.NUM_WORKERS", workers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [None, "notes.txt", ".hidden.png"])
def test_an_empty_class_is_named(root: Path, load: Callable, keep: str | None) -> None:
    (root / "test" / "ant" / "b.png").unlink()
    if keep:
        (root / "test" / "ant" / keep).touch()
    with pytest.raises(
        UserError,
        match=r"class folder '.*test/ant' has no images; each needs one that ends in .png",
    ):
        load()


def test_classes_must_agree(root: Path, load: Callable) -> None:
    save(root / "train" / "cat" / "1.png", 0)
    save(root / "test" / "dog" / "1.png", 0)
    with pytest.raises(
        UserError, match="only in '.*train': cat; only in '.*test': dog; both need the same folders"
    ):
        load()


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_split(root: Path, load: Callable, split: str) -> None:
    shutil.rmtree(root / split)
    with pytest.raises(
        UserError,
        match=f"folder '.*{split}' is missing; DATASET.ROOT must hold train/<class>/<images>",
    ):
        load()
    (root / split).mkdir()
    with pytest.raises(
        UserError, match=f"folder '.*{split}' has no class folders; DATASET.ROOT must hold"
    ):
        load()


@pytest.mark.parametrize("place", ["train", "train/bee"])
def test_a_folder_that_may_not_be_looked_into(
    root: Path, load: Callable, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    listed, scanned = os.listdir, os.scandir

    def refuse(kept: Callable) -> Callable:
        def look(path: object = ".") -> object:
            if Path(str(path)) == root / place:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return kept(path)

        return look

    monkeypatch.setattr(os, "listdir", refuse(listed))
    monkeypatch.setattr(os, "scandir", refuse(scanned))
    with pytest.raises(UserError, match=f"folder '.*{place}' cannot be read: Permission denied"):
        load()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_file_where_a_folder_is_wanted(root: Path, load: Callable, split: str) -> None:
    shutil.rmtree(root / split)
    (root / split).write_bytes(b"no folder")
    with pytest.raises(UserError, match=f"folder '.*{split}' is missing; DATASET.ROOT must hold"):
        load()


def test_one_class(root: Path, load: Callable) -> None:
    shutil.rmtree(root / "train" / "ant")
    shutil.rmtree(root / "test" / "ant")
    with pytest.raises(UserError, match="'imagefolder' has 1 class; at least 2"):
        load()


@pytest.mark.parametrize("name", ["1.png", "3.png"])  # the first is looked at before the others
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_refused(root: Path, load: Callable, name: str) -> None:
    (root / "train" / "bee" / name).unlink(missing_ok=True)
    os.mkfifo(root / "train" / "bee" / name)
    with pytest.raises(UserError, match=rf"{name}' cannot be decoded: .*it is no regular file"):
        load()


def test_more_images_than_the_memory_holds_are_not_decoded(
    root: Path, load: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = type("Memory", (), {"available": 3 * 3 * 6 * 6 - 1})  # three images
    monkeypatch.setattr(dataset.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(UserError, match="train' decoded needs 0.0 GiB of memory, 0.0 GiB are left"):
        load()

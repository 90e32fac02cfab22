"""DATASET.CACHE: the bits of the images in memory, built once, whatever interrupts it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from support.folders import noise, write_mixed

from sdkd_plugin.data import cache, decode, source
from sdkd_plugin.data.batches import EvalBatches, TrainBatches
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.errors import UserError

COUNT = 20
RESIZED = ("DATASET.TRANSFORM", "imagenet", "DATASET.IMAGE_SIZE", 16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train: 20 images of 2 classes, test: 4; all 12x12."""
    for split, count in (("train", COUNT), ("test", 4)):
        for number in range(count):
            file = tmp_path / "images" / split / "ab"[number % 2] / f"{number:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(number + count, 12, 12)).save(file)
    return tmp_path / "images"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def load(root: Path, folder: Path, make_config: Callable) -> Callable[..., Dataset]:
    """load(KEY, VALUE, ...) -> the data set through the cache."""

    def loaded(*pairs: object, kept: str = str(folder)) -> Dataset:
        own = ("DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(root), "DATASET.CACHE", kept)
        return load_dataset(make_config(*own, *pairs))

    return loaded


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were decoded so far."""
    names: list[str] = []

    def counted(content: bytes, name: str) -> np.ndarray:
        names.append(name)
        return decode.decode(content, name)

    monkeypatch.setattr(source, "decode", counted)
    return names


def same(ours: Dataset, theirs: Dataset) -> bool:
    """Whether two data sets give the same batches and make the same run."""
    facts = [(d.classes, d.mean, d.std, d.broken, d.fingerprint) for d in (ours, theirs)]
    if facts[0] != facts[1]:
        return False
    for left, right in ((ours.train, theirs.train), (ours.test, theirs.test)):
        pairs = [(left.pixels(n), right.pixels(n)) for n in range(len(left))]
        if not all(np.array_equal(*pair) for pair in pairs):
            return False
        if not left.targets.equal(right.targets):
            return False
    return True


@pytest.mark.parametrize(
    "pairs",
    [
        (),
        ("DATASET.IMAGE_SIZE", 6),
        ("DATASET.SUBSET", 0.5),
        ("DATASET.VAL_FRACTION", 0.3),
        ("DATASET.NUM_WORKERS", 0),
        RESIZED,
        (*RESIZED, "DATASET.VAL_FRACTION", 0.3),
    ],
)
def test_cached_images_are_those_in_memory(
    load: Callable, decoded: list[str], make_config: Callable, pairs: tuple
) -> None:
    expected = load(*pairs, kept="")
    first = load(*pairs)
    decoded.clear()
    again = load(*pairs)
    assert not decoded and same(first, expected) and same(again, expected)
    cfg = make_config(*pairs, "SOLVER.BATCH_SIZE", 4)
    for ours, theirs in zip(
        TrainBatches(again, cfg, "cpu").epoch(2),
        TrainBatches(expected, cfg, "cpu").epoch(2),
        strict=True,
    ):
        assert ours.image.equal(theirs.image) and ours.target.equal(theirs.target)
    for ours, theirs in zip(
        EvalBatches(again, cfg, "cpu", 1, 2), EvalBatches(expected, cfg, "cpu", 1, 2), strict=True
    ):
        assert all(map(torch.equal, ours, theirs))


def test_images_of_every_mode_and_size(tmp_path: Path, folder: Path, make_config: Callable) -> None:
    write_mixed(tmp_path / "mixed")
    (tmp_path / "mixed" / "train" / "a" / "00.png").write_text("no image")
    place = ("DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(tmp_path / "mixed"))
    cfg = make_config(*place, *RESIZED, "DATASET.BROKEN", "skip")
    expected = load_dataset(cfg)
    cfg.merge_from_list(["DATASET.CACHE", str(folder)])
    assert same(load_dataset(cfg), expected) and same(load_dataset(cfg), expected)
    assert len(expected.broken) == 1


@pytest.mark.parametrize("change", ["content", "name", "one more", "size", "transform"])
def test_what_changes_the_images_builds_another(
    load: Callable, root: Path, folder: Path, change: str
) -> None:
    load()
    before = set(folder.glob("*/pixels"))
    file = root / "train" / "a" / "00.png"
    pairs: tuple = ()
    if change == "content":
        Image.fromarray(noise(99, 12, 12)).save(file)
        os.utime(file, ns=(1, 1))
    elif change == "name":
        file.rename(file.with_name("000.png"))
    elif change == "one more":
        shutil.copy(file, file.with_name("99.png"))
    elif change == "size":
        pairs = ("DATASET.IMAGE_SIZE", 6)
    else:
        pairs = RESIZED
    assert same(load(*pairs), load(*pairs, kept=""))
    assert set(folder.glob("*/pixels")) > before


class Interruption(KeyboardInterrupt):
    """What Ctrl-C is, told apart from the real one."""


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Lets decoding be interrupted after so many images."""
    seen = []

    def interrupted(content: bytes, name: str) -> np.ndarray:
        if len(seen) == after:
            raise Interruption
        seen.append(name)
        return decode.decode(content, name)

    monkeypatch.setattr(source, "decode", interrupted)


@pytest.mark.parametrize("after", [0, 3, 4, 11, 19])
@pytest.mark.parametrize("damage", ["none", "torn journal", "pixels gone", "pixels more"])
def test_an_interrupted_build_goes_on_where_it_was(
    load: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch, after: int, damage: str
) -> None:
    expected = load(kept="")
    monkeypatch.setattr(cache, "PIECE", 4)
    with monkeypatch.context() as patch, pytest.raises(Interruption):
        interrupt(patch, after)
        load("DATASET.NUM_WORKERS", 0)
    (part,) = folder.glob("*.part")
    assert not (part / "index.npz").exists()
    kept = after // 4 * 4
    journal, pixels = part / "journal", part / "pixels"
    if damage == "torn journal":
        journal.write_text(journal.read_text()[:-5])
        kept = max(0, kept - 4)
    elif damage == "pixels gone" and kept:
        pixels.write_bytes(b"")
        kept = 0
    elif damage == "pixels more":
        pixels.write_bytes(pixels.read_bytes() + b"more")

    names: list[str] = []
    monkeypatch.setattr(
        source, "decode", lambda c, name: names.append(name) or decode.decode(c, name)
    )
    assert same(load("DATASET.NUM_WORKERS", 0), expected)
    assert len(names) == COUNT - kept + 4
    assert not list(folder.glob("*.part")) and not list(folder.glob("*/journal"))


def test_a_file_that_is_repaired_meanwhile_is_the_new_one(
    load: Callable, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PIECE", 4)
    broken = root / "train" / "b" / "11.png"
    content = broken.read_bytes()
    broken.write_text("no image")
    with pytest.raises(UserError, match="b/11.png' cannot be decoded"):
        load()
    broken.write_bytes(content)
    assert same(load(), load(kept=""))


def test_a_builder_waits_for_the_other(
    load: Callable, folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load()
    (trained, *_) = sorted(folder.glob("*/pixels"))
    monkeypatch.setattr(cache, "_LOCK_WAIT", 0.01)
    shutil.rmtree(trained.parent)
    acquire = FileLock.acquire
    waits = []

    def busy(lock: FileLock, timeout: float | None = None, **options: object) -> object:
        if timeout == 0.01:
            raise cache.Timeout(lock.lock_file)
        waits.append(lock.lock_file)
        return acquire(lock, timeout, **options)

    monkeypatch.setattr(FileLock, "acquire", busy)
    assert same(load(), expected) and waits
    assert "is being built by another process; waiting for it" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["short", "long", "index", "list", "no index"])
def test_a_damaged_cache_is_one_line(load: Callable, folder: Path, damage: str) -> None:
    load()
    for pixels in folder.glob("*/pixels"):
        index = pixels.with_name("index.npz")
        if damage == "short":
            pixels.write_bytes(pixels.read_bytes()[:-1])
        elif damage == "long":
            pixels.write_bytes(pixels.read_bytes() + b"x")
        elif damage == "index":
            index.write_text("{")
        elif damage == "no index":
            index.unlink()
        else:
            told = dict(np.load(index))
            np.savez(index, **{**told, "sizes": told["sizes"][:-1]})
    with pytest.raises(UserError, match="the cache .* is damaged: .*; remove it, and") as told:
        load()
    assert "\n" not in str(told.value)


def test_a_cache_without_its_index_is_told_before_anything_is_decoded(
    load: Callable, folder: Path, decoded: list[str]
) -> None:
    load()
    decoded.clear()
    for index in folder.glob("*/index.npz"):
        index.unlink()
    with pytest.raises(UserError, match="is damaged: it has no index.npz; remove it"):
        load()
    assert not decoded


@pytest.mark.parametrize("taken", ["cache", "part"])
def test_a_cache_that_cannot_be_written_is_one_line(
    load: Callable, folder: Path, taken: str
) -> None:
    if taken == "cache":
        folder.write_text("a file")
    else:
        load()
        shutil.rmtree(next(folder.glob("*/pixels")).parent)
        for lock in folder.glob("*.lock"):
            lock.with_suffix(".part").write_text("a file")
    with pytest.raises(UserError, match="the cache .* cannot be built: .*File exists.*; make room"):
        load()


def test_a_disk_that_is_too_small_is_told_before(
    load: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = type("Space", (), {"free": COUNT * 3 * 12 * 12 - 1})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: space)
    with pytest.raises(UserError, match="'train' decoded needs about .* on the disk of DATASET.C"):
        load()

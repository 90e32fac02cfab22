"""Folders as they are found: val/ instead of test/, Tiny-ImageNet, images of every mode and size,
broken ones among them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.folders import noise, write_mixed, write_tiny_imagenet

from sdkd_plugin.data import dataset
from sdkd_plugin.data.batches import EvalBatches, TrainBatches
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.errors import UserError

RESIZED = ("DATASET.TRANSFORM", "imagenet", "DATASET.IMAGE_SIZE", 16)


@pytest.fixture
def load(tmp_path: Path, make_config: Callable) -> Callable[..., Dataset]:
    def loaded(*pairs: object) -> Dataset:
        own = ("DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(tmp_path))
        return load_dataset(make_config(*own, *pairs))

    return loaded


def write(path: Path, seed: int, size: tuple[int, int] = (6, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, *size)).save(path)


def test_val_is_evaluated_where_there_is_no_test(load: Callable, tmp_path: Path) -> None:
    for seed, name in enumerate(("train/a/1", "train/b/1", "val/a/1", "val/b/1")):
        write(tmp_path / f"{name}.png", seed)
    assert np.array_equal(load().test.images[1].numpy(), noise(3, 6, 6))
    write(tmp_path / "test" / "images" / "1.png", 4)  # unlabelled
    assert np.array_equal(load().test.images[1].numpy(), noise(3, 6, 6))


def test_test_wins_over_val_and_it_is_said(
    load: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for seed, name in enumerate(("train/a/1", "train/b/1", "val/a/1", "test/a/1", "test/b/1")):
        write(tmp_path / f"{name}.png", seed)
    assert np.array_equal(load().test.images[0].numpy(), noise(3, 6, 6))
    assert "has test/ and val/; test/ is evaluated, val/ is not used" in capsys.readouterr().out


def test_tiny_imagenet_as_it_is_published(load: Callable, tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path, classes=3, train=4, val=2, size=8)
    data = load()
    assert data.classes == ["n00000000", "n00000001", "n00000002"]
    assert data.train.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.targets.tolist() == [0, 0, 1, 1, 2, 2]
    # the file names its images in another order: val_5 to val_0, of the classes 0 1 2 0 1 2
    assert np.array_equal(data.test.images[0].numpy(), jpeg(tmp_path / "val/images/val_2.JPEG"))
    assert np.array_equal(data.test.images[1].numpy(), jpeg(tmp_path / "val/images/val_5.JPEG"))


def jpeg(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


@pytest.mark.parametrize(
    "line, message",
    [
        ("val_0.JPEG", "line 1 of .*val_annotations.txt is 'val_0.JPEG'; wanted"),
        ("val_0.JPEG\tn9\t0\t0", r"line 1 of .* is 'val_0.JPEG\\\\tn9\\\\t0\\\\t0'; wanted"),
        ("../val_0.JPEG\tn00000000", "line 1 of .*; wanted: the name of a file in images/"),
        ("none.JPEG\tn00000000", "image '.*none.JPEG' cannot be decoded: .*No such file"),
    ],
)
def test_a_wrong_annotation_is_named(
    load: Callable, tmp_path: Path, line: str, message: str
) -> None:
    write_tiny_imagenet(tmp_path, classes=2, train=1, val=1, size=8)
    (tmp_path / "val" / "val_annotations.txt").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        load()


def test_annotations_that_are_no_text(load: Callable, tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path, classes=2, train=1, val=1, size=8)
    (tmp_path / "val" / "val_annotations.txt").write_bytes(b"val_0.JPEG\tn\xff")
    with pytest.raises(UserError, match="val_annotations.txt is no UTF-8: .* 0xff in position 12"):
        load()


def test_no_annotations_at_all(load: Callable, tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path, classes=2, train=1, val=1, size=8)
    (tmp_path / "val" / "val_annotations.txt").write_text("")
    with pytest.raises(UserError, match="val_annotations.txt names no images"):
        load()


def test_images_of_every_mode_and_size(load: Callable, tmp_path: Path) -> None:
    modes = write_mixed(tmp_path)
    assert modes > {"L", "LA", "P", "RGBA", "CMYK", "1", "I;16"}
    data = load(*RESIZED)
    assert data.image_size == 16 and len({data.train.pixels(n).shape for n in range(8)}) > 3
    for number in range(len(data.train)):
        pixels = data.train.pixels(number)
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
        # each shows the same grey ramp, left black and right white, but for what a JPEG loses
        assert pixels[:, 0].max() < 40 and pixels[:, -1].min() > 215
    assert np.ptp(data.train.pixels(0).astype(int), axis=2).max() < 12


def test_mean_and_std_are_of_the_files_pixels(load: Callable, tmp_path: Path) -> None:
    write_mixed(tmp_path)
    data = load(*RESIZED)
    flat = np.concatenate([data.train.pixels(n).reshape(-1, 3) for n in range(len(data.train))])
    assert data.mean == tuple((flat / 255).mean(0).round(4).tolist())
    assert data.std == tuple((flat / 255).std(0).round(4).tolist())


def test_a_broken_file_is_refused_or_left_out(load: Callable, tmp_path: Path) -> None:
    write_mixed(tmp_path)
    whole = load(*RESIZED)
    text = tmp_path / "train" / "b" / "00.png"
    text.write_text("no image")
    with pytest.raises(UserError, match="image '.*b/00.png' cannot be decoded: cannot identify"):
        load(*RESIZED)
    left = load(*RESIZED, "DATASET.BROKEN", "skip")
    assert len(left.train) == len(whole.train) and left.fingerprint == whole.fingerprint
    assert len(left.broken) == 1 and "b/00.png' cannot be decoded" in left.broken[0]


def test_a_split_of_broken_files_alone_is_refused(load: Callable, tmp_path: Path) -> None:
    write_mixed(tmp_path)
    for file in (tmp_path / "test").rglob("*.*"):
        file.write_text("no image")
    for decode in ("once", "always"):
        pairs = ("DATASET.BROKEN", "skip", "DATASET.DECODE", decode)
        with pytest.raises(UserError, match="no image of test can be decoded: image '.*test/a"):
            load(*RESIZED, *pairs)


@pytest.mark.parametrize("skip", ["refuse", "skip"])
def test_decoded_anew_each_time_gives_the_same_bits_and_identity(
    load: Callable, tmp_path: Path, make_config: Callable, skip: str
) -> None:
    write_mixed(tmp_path)
    if skip == "skip":
        (tmp_path / "train" / "b" / "00.png").write_text("no image")
    once, always = (
        load(*RESIZED, "DATASET.DECODE", decode, "DATASET.BROKEN", skip)
        for decode in ("once", "always")
    )
    assert (once.mean, once.std, once.broken) == (always.mean, always.std, always.broken)
    assert once.fingerprint == always.fingerprint
    cfg = make_config(*RESIZED, "SOLVER.BATCH_SIZE", 4)
    for ours, theirs in zip(
        TrainBatches(always, cfg, "cpu").epoch(1),
        TrainBatches(once, cfg, "cpu").epoch(1),
        strict=True,
    ):
        assert ours.image.equal(theirs.image) and ours.target.equal(theirs.target)
    for ours, theirs in zip(
        EvalBatches(always, cfg, "cpu"), EvalBatches(once, cfg, "cpu"), strict=True
    ):
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("decode", ["once", "always"])
def test_parts_of_several_sizes_are_those_of_the_whole(
    load: Callable, tmp_path: Path, decode: str
) -> None:
    write_mixed(tmp_path)
    pairs = (*RESIZED, "DATASET.DECODE", decode)
    whole, part = load(*pairs), load(*pairs, "DATASET.VAL_FRACTION", 0.3)
    assert len(part.train) + len(part.test) == len(whole.train) and part.evaluates == "val"
    assert part.fingerprint != whole.fingerprint
    digests = {row.tobytes() for row in whole.train.images.digests}
    for split in (part.train, part.test):
        for number, digest in enumerate(split.images.digests):
            assert digest.tobytes() in digests
            assert (split.pixels(number)[:, -1] > 215).all()


def test_constants_that_are_given_spare_the_measuring(
    load: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mixed(tmp_path)
    given = ("DATASET.MEAN", "[0.485, 0.456, 0.406]", "DATASET.STD", "[0.229, 0.224, 0.225]")

    def read(*arguments: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("sdkd_plugin.data.source.decode", read)
    data = load(*RESIZED, "DATASET.DECODE", "always", *given)
    assert data.mean == (0.485, 0.456, 0.406) and len(data.fingerprint) == 16


def test_digests_of_what_is_decoded_anew_are_kept_in_the_cache(
    load: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mixed(tmp_path)
    cache = tmp_path / "cache"
    pairs = (*RESIZED, "DATASET.DECODE", "always", "DATASET.CACHE", str(cache))
    expected = load(*RESIZED).fingerprint
    assert load(*pairs).fingerprint == expected and len(list(cache.glob("*.digests"))) == 2

    def digest(*arguments: object) -> None:
        raise AssertionError("a file was read for its digest")

    with monkeypatch.context() as patch:
        patch.setattr("sdkd_plugin.data.imagefolder.FileSource.digest", digest)
        assert load(*pairs).fingerprint == expected
        # the same images make up another run's training set
        part = load(*pairs, "DATASET.VAL_FRACTION", 0.3)
    assert part.fingerprint == load(*RESIZED, "DATASET.VAL_FRACTION", 0.3).fingerprint
    for file in cache.glob("*.digests"):
        file.write_bytes(b"torn")
    assert load(*pairs).fingerprint == expected


def test_digests_that_cannot_be_kept_are_one_line(load: Callable, tmp_path: Path) -> None:
    write_mixed(tmp_path)
    (tmp_path / "cache").write_text("a file")
    data = load(*RESIZED, "DATASET.DECODE", "always", "DATASET.CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="the cache .*.digests cannot be built: .*File exists"):
        print(data.fingerprint)


def test_an_image_that_breaks_later_is_one_line(
    load: Callable, tmp_path: Path, make_config: Callable
) -> None:
    write_mixed(tmp_path)
    data = load(*RESIZED, "DATASET.DECODE", "always")
    (tmp_path / "train" / "a" / "01.png").write_text("no image")
    with pytest.raises(UserError, match="a/01.png' cannot be decoded: cannot identify image file;"):
        list(TrainBatches(data, make_config(*RESIZED, "SOLVER.BATCH_SIZE", 4), "cpu").epoch(1))


def test_decoding_anew_needs_a_resizing(load: Callable, tmp_path: Path) -> None:
    write_mixed(tmp_path)
    with pytest.raises(UserError, match="DATASET.DECODE is always, .*DATASET.TRANSFORM imagenet"):
        load("DATASET.DECODE", "always", "DATASET.IMAGE_SIZE", 8)


def test_more_than_the_memory_holds_is_told_of_the_cache(
    load: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mixed(tmp_path)
    memory = type("Memory", (), {"available": 1000})
    monkeypatch.setattr(dataset.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(UserError, match="memory, .* are left; set DATASET.CACHE to a folder"):
        load(*RESIZED)

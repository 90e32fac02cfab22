"""A data set's mean and std: counted exactly, its own unless given, never changed by a subset."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdkd_plugin.data import cifar100, npz
from sdkd_plugin.data.batches import EvalBatches, TrainBatches
from sdkd_plugin.data.dataset import Dataset, Images, content_hash, load_dataset
from sdkd_plugin.data.statistics import count_levels, mean_and_std
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import DATASETS, Entry
from sdkd_plugin.runs.folder import data_identity
from sdkd_plugin.table import published

GIVEN = ("DATASET.MEAN", [0.1, 0.2, 0.3], "DATASET.STD", [0.4, 0.5, 0.6])


def reference(images: np.ndarray) -> tuple[list[float], list[float]]:
    """numpy's own, in float64, of the pixels in [0, 1]."""
    pixels = images.astype(np.float64) / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    return mean.round(4).tolist(), std.round(4).tolist()


def test_mean_and_std_by_hand() -> None:
    # red: 0, 0, 255, 255; green: 51 four times; blue: 0, 102, 0, 102
    pixels = [[[0, 51, 0], [0, 51, 102]], [[255, 51, 0], [255, 51, 102]]]
    counts = count_levels(torch.tensor([pixels], dtype=torch.uint8))
    assert counts.sum(1).tolist() == [4, 4, 4]
    assert [counts[0, 255], counts[1, 51], counts[2, 102]] == [2, 4, 2]
    # green does not vary: its std is 1, so that it becomes 0 everywhere
    assert mean_and_std(counts) == ((0.5, 0.2, 0.2), (0.5, 1.0, 0.2))


def test_a_deviation_that_rounds_to_nothing_counts_as_none() -> None:
    counts = torch.zeros(3, 256, dtype=torch.int64)
    counts[:, 7], counts[:, 8] = 10**9, torch.tensor([0, 1, 10**9])
    # 1 level in 1e9 pixels is a deviation of 1e-7; half of them one of 1 / 510
    assert mean_and_std(counts)[1] == (1.0, 1.0, round(1 / 510, 4))


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 5))
def test_counting_equals_numpys_float64(seed: int, count: int, size: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size + 1, 3), np.uint8)
    mean, std = mean_and_std(count_levels(torch.from_numpy(images)))
    expected_mean, expected_std = reference(images)
    # to the last decimal; equal unless a value lies right between two
    assert mean == pytest.approx(expected_mean, abs=1.001e-4)
    assert std == pytest.approx([value or 1.0 for value in expected_std], abs=1.001e-4)


def test_counting_equals_itself_across_chunks() -> None:
    images = torch.randint(0, 256, (2300, 2, 2, 3), dtype=torch.uint8)
    parts = count_levels(images[:700]) + count_levels(images[700:])
    assert count_levels(images).equal(parts) and count_levels(images).sum() == 2300 * 4 * 3


@pytest.fixture
def made() -> Dataset:
    """40 training images, dark, and 8 test images, bright, of 2 classes; nothing else is said."""
    generator = torch.Generator().manual_seed(0)
    dark = torch.randint(0, 100, (40, 8, 8, 3), generator=generator, dtype=torch.uint8)
    bright = torch.randint(200, 256, (8, 8, 8, 3), generator=generator, dtype=torch.uint8)
    train, test = Images(dark, torch.arange(40) % 2), Images(bright, torch.arange(8) % 2)
    return Dataset("made", ["a", "b"], train, test)


@pytest.fixture
def load(
    monkeypatch: pytest.MonkeyPatch, make_config: Callable, made: Dataset
) -> Callable[..., Dataset]:
    def loaded(*pairs: object) -> Dataset:
        DATASETS.load()
        monkeypatch.setitem(DATASETS._entries, "made", Entry("made", lambda cfg: made))
        return load_dataset(make_config("DATASET.TYPE", "made", *pairs))

    return loaded


def test_a_data_set_has_the_statistics_of_its_training_images(made: Dataset) -> None:
    assert (list(made.mean), list(made.std)) == reference(made.train.images.numpy())
    said = replace(made, mean=(0.5, 0.5, 0.5))
    assert said.mean == (0.5, 0.5, 0.5) and said.std == made.std


@pytest.mark.parametrize(
    "pairs",
    [("DATASET.SUBSET", 0.1), ("DATASET.VAL_FRACTION", 0.5), ("DATASET.IMAGE_SIZE", 2)],
    ids=lambda pairs: pairs[0],
)
def test_what_is_kept_of_a_data_set_does_not_change_them(
    load: Callable, made: Dataset, pairs: tuple
) -> None:
    cut = load(*pairs)
    assert (cut.mean, cut.std) == (made.mean, made.std)
    # else the line above shows nothing
    own = mean_and_std(count_levels(cut.train.images))
    assert own != (made.mean, made.std)


def test_given_values_win_each_for_itself(load: Callable, made: Dataset) -> None:
    both = load(*GIVEN)
    assert (both.mean, both.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    one = load(*GIVEN[2:])
    assert (one.mean, one.std) == (made.mean, (0.4, 0.5, 0.6))


def test_both_kinds_of_batches_are_normalised_with_them(
    load: Callable, make_config: Callable
) -> None:
    data = load(*GIVEN)
    cfg = make_config("SOLVER.BATCH_SIZE", 40, "DATASET.AUGMENT", "none")
    batch = next(TrainBatches(data, cfg, "cpu").epoch(1))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    expected = (data.train.images[batch.index].permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(batch.image, expected, rtol=0, atol=1e-5)
    image, _ = next(iter(EvalBatches(data, cfg, "cpu")))
    expected = (data.test.images.permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


def test_a_runs_identity_has_them_resolved(load: Callable, made: Dataset) -> None:
    identity = data_identity(load())
    assert identity["DATASET.MEAN"] == list(made.mean)
    assert identity["DATASET.STD"] == list(made.std)
    spelled = ("DATASET.MEAN", list(made.mean), "DATASET.STD", list(made.std))
    assert data_identity(load(*spelled)) == identity
    assert data_identity(load(*GIVEN)) == {
        **identity,
        "DATASET.MEAN": [0.1, 0.2, 0.3],
        "DATASET.STD": [0.4, 0.5, 0.6],
    }


# The data sets that there are.


def arrays() -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 128, (9, 4, 4, 3), np.uint8)
    labels = np.arange(9) % 2
    return {
        "x_train": images[:6],
        "y_train": labels[:6],
        "x_test": images[6:],
        "y_test": labels[6:],
    }


@pytest.fixture
def load_npz(tmp_path: Path, make_config: Callable) -> Callable[..., Dataset]:
    """load_npz(mean=..., ...) -> the data set of a file with these beside the needed arrays."""

    def loaded(**more: object) -> Dataset:
        np.savez(tmp_path / "data.npz", **arrays(), **more)
        root = str(tmp_path / "data.npz")
        return load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", root))

    return loaded


def test_an_npz_file_has_its_own_or_says_them(load_npz: Callable) -> None:
    mean, std = reference(arrays()["x_train"])
    data = load_npz()
    assert (list(data.mean), list(data.std)) == (mean, std)
    said = load_npz(mean=np.array([0, 1, 2]), std=np.array([0.25, 0.5, 1], np.float32))
    assert (said.mean, said.std) == ((0.0, 1.0, 2.0), (0.25, 0.5, 1.0))
    assert load_npz(mean=[0.5] * 3).std == tuple(std)


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("mean", [0.5, 0.5], r"is float64 \[2\]; allowed: three finite numbers, one per channel$"),
        ("mean", 0.5, r"is float64 \[\]"),
        ("mean", ["a", "b", "c"], r"is <U1 \[3\]"),
        ("mean", [0.5, np.nan, 0.5], r"is \[0.5, nan, 0.5\]"),
        ("std", [0.5, 0.0, 0.5], r"is \[0.5, 0.0, 0.5\]; allowed: .* one per channel, above 0"),
        ("std", [0.5, np.inf, 0.5], r"is \[0.5, inf, 0.5\]"),
        ("std", [None] * 3, "cannot be read: it holds pickled objects, which are never loaded"),
    ],
)
def test_a_bad_mean_or_std_is_refused(
    load_npz: Callable, key: str, array: object, message: str
) -> None:
    with pytest.raises(UserError, match=f"array '{key}' of '.*data.npz' {message}"):
        load_npz(**{key: array})


def test_an_npz_file_that_is_cifar100_gets_cifar100s(
    load_npz: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These few images stand for CIFAR-100: the same shapes, the same hash."""
    own = load_npz()
    monkeypatch.setattr(cifar100, "SHAPES", ((6, 4, 4, 3), (3, 4, 4, 3)))
    assert load_npz().mean == own.mean
    monkeypatch.setattr(cifar100, "CONTENT", content_hash(own.train, own.test))
    assert (load_npz().mean, load_npz().std) == (cifar100.MEAN, cifar100.STD)
    assert load_npz(mean=[0.5] * 3).mean == (0.5,) * 3
    monkeypatch.setattr(cifar100, "SHAPES", ((6, 4, 4, 3), (2, 4, 4, 3)))
    assert load_npz().mean == own.mean
    assert npz.MEAN == cifar100.MEAN


def test_the_real_cifar100_is_known_by_its_content(shared: Path, make_config: Callable) -> None:
    root = str(shared / "data" / "cifar100.npz")
    data = load_dataset(make_config("DATASET.TYPE", "npz", "DATASET.ROOT", root))
    assert cifar100.is_cifar100(data.train, data.test)
    assert (data.mean, data.std) == (cifar100.MEAN, cifar100.STD)
    # everybody's constants are the images' own but for the fourth decimal, which would change bits
    mean, std = mean_and_std(count_levels(data.train.images))
    assert mean == pytest.approx(cifar100.MEAN, abs=2.1e-4) and mean != cifar100.MEAN
    assert std == pytest.approx(cifar100.STD, abs=2.1e-4) and std != cifar100.STD
    small = make_config("DATASET.TYPE", "npz", "DATASET.ROOT", root, "DATASET.SUBSET", 0.02)
    assert load_dataset(small).mean == cifar100.MEAN


def test_the_two_places_that_know_cifar100_agree() -> None:
    assert cifar100.CONTENT == published.CIFAR100


def test_an_imagefolder_has_those_of_its_files_before_they_are_shrunk(
    tmp_path: Path, make_config: Callable
) -> None:
    generator = np.random.default_rng(0)
    images = {
        f"{split}/{name}/1.png": generator.integers(0, 256, (side, 6, 3), np.uint8)
        for split in ("train", "test")
        for name, side in (("ant", 6), ("bee", 10))
    }
    for name, pixels in images.items():
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / name)
    root = ("DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(tmp_path))
    # all rows of both training images, which differ in height
    rows = np.concatenate([images["train/ant/1.png"], images["train/bee/1.png"]])
    for size in (2, 6):
        data = load_dataset(make_config(*root, "DATASET.IMAGE_SIZE", size))
        assert (list(data.mean), list(data.std)) == reference(rows[None])


def test_the_digits_have_their_own(make_config: Callable) -> None:
    data = load_dataset(make_config("DATASET.TYPE", "digits"))
    assert (list(data.mean), list(data.std)) == reference(data.train.images.numpy())
    # grey: one value for all channels, and not CIFAR's
    assert len(set(data.mean)) == len(set(data.std)) == 1
    assert data.mean != cifar100.MEAN

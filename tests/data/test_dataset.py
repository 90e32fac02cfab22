"""Subset, validation split and image size, on a data set registered for these tests alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdkd_plugin.data.dataset import Dataset, Images, choose_per_class, load_dataset, shrink
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import DATASETS, Entry


@pytest.fixture
def load(
    monkeypatch: pytest.MonkeyPatch, make_config: Callable, toy: Dataset
) -> Callable[..., Dataset]:
    """load("KEY", value, ..., data=...) -> what load_dataset makes of `data` (the toy data)."""

    def loaded(*pairs: object, data: Dataset = toy) -> Dataset:
        DATASETS.load()
        monkeypatch.setitem(DATASETS._entries, "toy", Entry("toy", lambda cfg: data))
        return load_dataset(make_config("DATASET.TYPE", "toy", *pairs))

    return loaded


def test_keys_of_decoding_are_without_effect_where_nothing_is_decoded(
    load: Callable, toy: Dataset, capsys: pytest.CaptureFixture
) -> None:
    load("DATASET.BROKEN", "skip")
    mapped = Images(toy.train.images, toy.train.targets, torch.arange(50))
    load("DATASET.CACHE", "x", data=replace(toy, train=mapped))
    assert capsys.readouterr().out == ""
    load("DATASET.CACHE", "x", "DATASET.DECODE", "always")
    told = "note: without effect, toy is stored decoded: DATASET.CACHE, DATASET.DECODE\n"
    assert capsys.readouterr().out == told


def positions(part: Images, whole: Images) -> list[int]:
    """Where the images of `part` stand in `whole`; the toy images are all different."""
    return [int((whole.images == image).flatten(1).all(1).nonzero()) for image in part.images]


def test_everything_is_kept_by_default(load: Callable, toy: Dataset) -> None:
    data = load()
    assert data.train is toy.train and data.test is toy.test
    sizes = (data.num_classes, len(data.train), len(data.test))
    assert data.evaluates == "test" and sizes == (5, 50, 20)


def test_subset_is_class_balanced_ordered_and_nested(load: Callable, toy: Dataset) -> None:
    assert torch.bincount(toy.train.targets).tolist() == [15, 10, 10, 10, 5]
    half, most = (
        positions(load("DATASET.SUBSET", fraction).train, toy.train) for fraction in (0.5, 0.9)
    )
    # round(7.5), round(2.5): half to even
    assert torch.bincount(toy.train.targets[half]).tolist() == [8, 5, 5, 5, 2]
    assert half == sorted(half) and set(half) < set(most)
    data = load("DATASET.SUBSET", 0.5)
    assert data.train.targets.equal(toy.train.targets[half])
    assert data.test is toy.test


def test_a_tiny_subset_keeps_one_image_per_class(load: Callable) -> None:
    assert load("DATASET.SUBSET", 1e-6).train.targets.sort().values.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("key", ["DATASET.SUBSET", "DATASET.VAL_FRACTION"])
def test_the_choice_does_not_depend_on_the_seed(load: Callable, key: str) -> None:
    zero, one = (load(key, 0.5, "SOLVER.SEED", seed) for seed in (0, 1))
    assert zero.train.images.equal(one.train.images) and zero.test.images.equal(one.test.images)


def test_validation_images_leave_the_kept_subset_and_replace_the_test_images(
    load: Callable, toy: Dataset
) -> None:
    data = load("DATASET.SUBSET", 0.8, "DATASET.VAL_FRACTION", 0.25)
    subset = positions(load("DATASET.SUBSET", 0.8).train, toy.train)
    kept, held = positions(data.train, toy.train), positions(data.test, toy.train)
    assert data.evaluates == "val"
    assert sorted(kept + held) == subset and kept == sorted(kept) and held == sorted(held)
    assert torch.bincount(data.test.targets).tolist() == [3, 2, 2, 2, 1]
    assert data.test.targets.equal(toy.train.targets[held])


def test_subset_and_validation_are_different_draws(load: Callable, toy: Dataset) -> None:
    subset = positions(load("DATASET.SUBSET", 0.2).train, toy.train)
    assert subset != positions(load("DATASET.VAL_FRACTION", 0.2).test, toy.train)


def test_validation_must_leave_training_images(load: Callable) -> None:
    with pytest.raises(
        UserError, match="VAL_FRACTION 0.92 holds out all 5 training images of class 'e'; lower it"
    ):
        load("DATASET.VAL_FRACTION", 0.92)
    with pytest.raises(
        UserError, match="VAL_FRACTION 0.1 holds out all 1 training images of class 'a'"
    ):
        load("DATASET.SUBSET", 0.01, "DATASET.VAL_FRACTION", 0.1)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=6))
def test_choose_per_class_takes_the_counts_asked_for(rows: list[tuple[int, int]]) -> None:
    present, asked = [max(row) for row in rows], [min(row) for row in rows]
    targets = torch.repeat_interleave(torch.tensor(present))
    chosen = choose_per_class(targets, asked, "purpose")
    assert torch.bincount(targets[chosen], minlength=len(rows)).tolist() == asked
    assert chosen.tolist() == sorted(set(chosen.tolist()))


def test_shrink_averages_areas_by_hand() -> None:
    rows = [
        [0, 1, 10, 20],
        [2, 4, 30, 40],
        [255, 255, 7, 7],
        [255, 252, 7, 8],
    ]
    image = torch.tensor(rows, dtype=torch.uint8)
    small = shrink(image[None, :, :, None].expand(1, 4, 4, 3), 2, "it")
    assert small.dtype == torch.uint8
    assert small[0, :, :, 0].tolist() == [[2, 25], [254, 7]]  # 1.75, 25, 254.25, 7.25


def test_shrink_equals_itself_across_chunks() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2500, 4, 6, 3), generator=generator, dtype=torch.uint8)
    areas = images.view(2500, 2, 2, 2, 3, 3)  # of 2x3 pixels
    expected = areas.double().mean((2, 4)).round().to(torch.uint8)
    assert shrink(images, 2, "it").equal(expected)


def test_image_size_applies_to_both_splits(load: Callable, toy: Dataset) -> None:
    data = load("DATASET.IMAGE_SIZE", 4)
    for small, split in ((data.train, toy.train), (data.test, toy.test)):
        assert small.images.shape == (len(split), 4, 4, 3) and small.targets is split.targets
        assert small.images.equal(shrink(split.images, 4, "it"))
    assert load("DATASET.IMAGE_SIZE", 8).train.images is toy.train.images


def test_enlarging_is_refused(load: Callable) -> None:
    with pytest.raises(
        UserError,
        match=r"IMAGE_SIZE is 9 but a stored image is 8x8 .*; allowed: 0 \(as stored\) to 8",
    ):
        load("DATASET.IMAGE_SIZE", 9)


def test_images_must_be_square_or_made_so(load: Callable, toy: Dataset) -> None:
    train, test = (replace(split, images=split.images[:, :6]) for split in (toy.train, toy.test))
    wide = replace(toy, train=train, test=test)
    with pytest.raises(
        UserError, match="images are 8x6; they must be square: set DATASET.IMAGE_SIZE, at most 6"
    ):
        load(data=wide)
    with pytest.raises(UserError, match="IMAGE_SIZE is 8 but a stored image is 8x6"):
        load("DATASET.IMAGE_SIZE", 8, data=wide)
    assert load("DATASET.IMAGE_SIZE", 6, data=wide).train.images.shape == (50, 6, 6, 3)


def test_splits_must_have_one_size(load: Callable, toy: Dataset) -> None:
    mixed = replace(toy, test=replace(toy.test, images=toy.test.images[:, :4, :4]))
    with pytest.raises(
        UserError, match="differ in size: train 8x8, test 4x4; set DATASET.IMAGE_SIZE"
    ):
        load(data=mixed)
    assert load("DATASET.IMAGE_SIZE", 4, data=mixed).train.images.shape[1] == 4


def test_one_class_is_refused(load: Callable, toy: Dataset) -> None:
    with pytest.raises(UserError, match="'toy' has 1 class; at least 2 are needed"):
        load(data=replace(toy, classes=["only"]))

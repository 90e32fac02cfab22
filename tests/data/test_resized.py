"""DATASET.TRANSFORM imagenet: torchvision's crops and resizing, with our own draws."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as reference

from sdkd_plugin.data import views
from sdkd_plugin.data.batches import Batch, EvalBatches, TrainBatches
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.images import Images
from sdkd_plugin.data.pictures import Packed
from sdkd_plugin.data.resized import crop_box, evaluation_view, train_view

# the identity: pixel values come out as they are
PLAIN = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
SIZES = [(300, 400), (401, 299), (256, 256), (97, 500), (61, 33), (33, 32)]
IMAGENET = ("DATASET.TRANSFORM", "imagenet", "SOLVER.BATCH_SIZE", 8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def mixed() -> Dataset:
    """20 + 6 images of many sizes, of 2 classes, that become 24x24."""
    generator = np.random.default_rng(0)
    splits = []
    for count in (20, 6):
        arrays = [noise(*generator.integers(20, 60, 2)) for _ in range(count)]
        lengths = np.cumsum([0, *(array.size for array in arrays)])
        sizes = np.array([array.shape[:2] for array in arrays], np.int64)
        digests = np.zeros((count, 16), np.uint8)
        buffer = np.concatenate([array.reshape(-1) for array in arrays])
        packed = Packed(buffer, lengths[:-1], sizes, digests)
        splits.append(Images(packed, torch.arange(count) % 2))
    return Dataset("mixed", ["a", "b"], *splits, resized=24, **PLAIN)


def epoch_images(batches: TrainBatches, epoch: int = 1) -> torch.Tensor:
    """[N, 3, H, W] of an epoch in the order of the training set."""
    made: list[Batch] = list(batches.epoch(epoch))
    order = torch.cat([batch.index for batch in made]).argsort()
    return torch.cat([batch.image for batch in made])[order]


@pytest.mark.parametrize("height, width", SIZES)
def test_a_training_view_is_torchvisions_for_the_same_box(height: int, width: int) -> None:
    pixels = noise(height, width)
    for sample in range(5):
        box = crop_box(height, width, 0, 1, sample)
        expected = reference.resized_crop(Image.fromarray(pixels), *box, [64, 64])
        assert np.array_equal(train_view(pixels, 64, box, False), np.asarray(expected))
        mirrored = np.asarray(reference.hflip(expected))
        assert np.array_equal(train_view(pixels, 64, box, True), mirrored)


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("size", [224, 64, 33])
def test_an_evaluated_view_is_torchvisions(height: int, width: int, size: int) -> None:
    pixels = noise(height, width)
    steps = [transforms.Resize(int(size * 256 / 224)), transforms.CenterCrop(size)]
    expected = transforms.Compose(steps)(Image.fromarray(pixels))
    assert np.array_equal(evaluation_view(pixels, size), np.asarray(expected))


@pytest.mark.parametrize("height, width", [(100, 100), (90, 160), (50, 200)])
def test_boxes_are_drawn_as_torchvisions_are(height: int, width: int) -> None:
    """Quantiles of area, ratio and place of 4000 boxes of each."""
    image = Image.new("RGB", (width, height))
    torch.manual_seed(0)
    draw = transforms.RandomResizedCrop.get_params
    theirs = [draw(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    ours = [crop_box(height, width, 0, 1, sample) for sample in range(4000)]

    def facts(boxes: list) -> np.ndarray:
        top, left, h, w = np.array(boxes, float).T
        values = [h * w / (height * width), np.log(w / h), top / height, left / width]
        return np.array([np.quantile(value, [0.1, 0.25, 0.5, 0.75, 0.9]) for value in values])

    assert np.abs(facts(ours) - facts(theirs)).max() < 0.04


@pytest.mark.parametrize("height, width", [*SIZES, (10, 1000), (1000, 10), (1, 1), (1, 7)])
def test_a_box_lies_in_its_image(height: int, width: int) -> None:
    for sample in range(200):
        top, left, h, w = crop_box(height, width, 3, 2, sample)
        assert h >= 1 and w >= 1 and 0 <= top <= height - h and 0 <= left <= width - w


@pytest.mark.parametrize(
    "height, width, box",
    # where no draw fits: the largest window of ratio 4/3, or 3/4, in the centre
    [(10, 10000, (0, 4993, 10, 13)), (10000, 10, (4993, 0, 13, 10))],
)
def test_an_image_that_no_draw_fits_is_cropped_in_its_centre(
    height: int, width: int, box: tuple
) -> None:
    assert {crop_box(height, width, 0, 1, sample) for sample in range(20)} == {box}


@pytest.mark.parametrize("workers", [1, 3])
def test_an_image_is_the_same_whatever_the_number_of_workers(
    mixed: Dataset, make_config: Callable, workers: int
) -> None:
    alone = make_config(*IMAGENET, "DATASET.NUM_WORKERS", 0)
    cfg = make_config(*IMAGENET, "DATASET.NUM_WORKERS", workers)
    for epoch in (1, 2):
        expected = list(TrainBatches(mixed, alone, "cpu").epoch(epoch))
        found = list(TrainBatches(mixed, cfg, "cpu").epoch(epoch))
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.image.equal(theirs.image) and ours.index.equal(theirs.index)
    for ours, theirs in zip(
        EvalBatches(mixed, cfg, "cpu"), EvalBatches(mixed, alone, "cpu"), strict=True
    ):
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("workers", [1, 3])
def test_two_batches_are_made_ahead_at_most(
    mixed: Dataset, make_config: Callable, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    read: list[int] = []
    pixels = Images.pixels

    def counted(self: Images, number: int) -> np.ndarray:
        read.append(number)
        return pixels(self, number)

    monkeypatch.setattr(Images, "pixels", counted)
    own = ("SOLVER.BATCH_SIZE", views.TOGETHER, "DATASET.NUM_WORKERS", workers)
    next(TrainBatches(mixed, make_config(*IMAGENET, *own), "cpu").epoch(1))
    time.sleep(0.3)  # in which all 20 could be made
    ahead = max(views.AHEAD, workers)  # each thread has a batch to make
    assert views.TOGETHER <= len(read) <= (1 + ahead) * views.TOGETHER < 20


def test_views_depend_on_seed_epoch_and_sample_alone(mixed: Dataset, make_config: Callable) -> None:
    cfg = make_config(*IMAGENET)
    batches = TrainBatches(mixed, cfg, "cpu")
    first = epoch_images(batches)
    assert first.shape == (20, 3, 24, 24)
    next(batches.epoch(2))  # left in the middle
    assert epoch_images(batches).equal(first)
    larger = make_config(*IMAGENET, "SOLVER.BATCH_SIZE", 20)
    assert epoch_images(TrainBatches(mixed, larger, "cpu")).equal(first)
    assert not epoch_images(batches, 2).equal(first)
    assert not epoch_images(TrainBatches(mixed, cfg, "cpu", seed=1)).equal(first)


def test_views_are_those_of_the_epochs_boxes_and_flips(
    mixed: Dataset, make_config: Callable
) -> None:
    images = epoch_images(TrainBatches(mixed, make_config(*IMAGENET), "cpu"), 5)
    unflipped = make_config(*IMAGENET, "DATASET.AUGMENT", "crop")
    straight = epoch_images(TrainBatches(mixed, unflipped, "cpu"), 5)
    mirrors = 0
    for sample in range(20):
        pixels = mixed.train.pixels(sample)
        box = crop_box(*pixels.shape[:2], 0, 5, sample)
        expected = torch.from_numpy(train_view(pixels, 24, box, False).copy()).permute(2, 0, 1)
        torch.testing.assert_close(straight[sample], expected.float())
        mirrored = expected.flip(2).float()
        mirrors += torch.allclose(images[sample], mirrored)
        assert torch.allclose(images[sample], mirrored) or images[sample].allclose(expected.float())
    assert 4 < mirrors < 16


def test_what_no_mirror_may_show_is_not_mirrored(mixed: Dataset, make_config: Callable) -> None:
    cfg = make_config(*IMAGENET)
    digits = replace(mixed, flips=False)
    straight = make_config(*IMAGENET, "DATASET.AUGMENT", "crop")
    found = epoch_images(TrainBatches(digits, cfg, "cpu"))
    assert found.equal(epoch_images(TrainBatches(mixed, straight, "cpu")))


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_unaugmented_and_evaluated_images_are_centre_crops(
    mixed: Dataset, make_config: Callable, augment: str
) -> None:
    cfg = make_config(*IMAGENET, "DATASET.AUGMENT", augment, "DATASET.TEST.BATCH_SIZE", 4)
    sizes = []
    seen = []
    for image, target in EvalBatches(replace(mixed, test=mixed.train), cfg, "cpu"):
        sizes.append(len(target))
        seen.append(image)
    assert sizes == [4] * 5
    expected = [evaluation_view(mixed.train.pixels(n), 24) for n in range(20)]
    wanted = torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(torch.cat(seen), wanted)
    trained = epoch_images(TrainBatches(mixed, cfg, "cpu"))
    assert torch.allclose(trained, wanted) == (augment == "none")


def test_ranks_share_the_views(mixed: Dataset, make_config: Callable) -> None:
    cfg = make_config(*IMAGENET)
    whole = list(TrainBatches(mixed, cfg, "cpu").epoch(1))
    for rank in range(2):
        own = list(TrainBatches(mixed, cfg, "cpu", rank=rank, world_size=2).epoch(1))
        for part, everyone in zip(own, whole, strict=True):
            assert part.image.equal(everyone.image[rank::2])
    evaluated = torch.cat([image for image, _ in EvalBatches(mixed, cfg, "cpu")])
    second = torch.cat([image for image, _ in EvalBatches(mixed, cfg, "cpu", 1, 2)])
    assert second.equal(evaluated[1::2])


def test_images_of_one_size_are_resized_too(toy: Dataset, make_config: Callable) -> None:
    enlarged = replace(toy, resized=16, **PLAIN)
    cfg = make_config(*IMAGENET)
    images = epoch_images(TrainBatches(enlarged, cfg, "cpu"))
    assert images.shape == (50, 3, 16, 16)
    box = crop_box(8, 8, 0, 1, 7)
    expected = reference.resized_crop(Image.fromarray(toy.train.images[7].numpy()), *box, [16, 16])
    wanted = torch.from_numpy(np.array(expected)).permute(2, 0, 1).float()
    assert any(images[7].allclose(view) for view in (wanted, wanted.flip(2)))


def test_transform_none_leaves_images_as_they_are(toy: Dataset, make_config: Callable) -> None:
    cfg = make_config("DATASET.TRANSFORM", "none", "SOLVER.BATCH_SIZE", 8)
    images = epoch_images(TrainBatches(replace(toy, **PLAIN), cfg, "cpu"))
    torch.testing.assert_close(images, toy.train.images.permute(0, 3, 1, 2).float())


def test_the_area_of_a_box_is_at_least_its_share() -> None:
    shares = [math.prod(crop_box(200, 200, 0, 1, n)[2:]) / 200**2 for n in range(500)]
    assert 0.075 < min(shares) < 0.1 and 0.9 < max(shares) <= 1

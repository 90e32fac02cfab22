"""Batches depend on (seed, epoch, sample) alone, and images, targets and indices stay together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.transforms import functional as reference

from sdkd_plugin.data.augment import epoch_table
from sdkd_plugin.data.batches import Batch, EvalBatches, TrainBatches
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.errors import UserError

CPU = torch.device("cpu")
# the identity: pixel values come out as they are
PLAIN = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}


@pytest.fixture
def batches(toy: Dataset, make_config: Callable) -> Callable[..., TrainBatches]:
    """batches("KEY", value, ..., argument=...) -> TrainBatches of 8 of the toy data, on the CPU."""

    def make(*pairs: object, dataset: Dataset = toy, **arguments: int) -> TrainBatches:
        cfg = make_config("SOLVER.BATCH_SIZE", 8, *pairs)
        return TrainBatches(replace(dataset, **PLAIN), cfg, "cpu", **arguments)

    return make


def joined(epoch: list[Batch], name: str) -> torch.Tensor:
    return torch.cat([getattr(batch, name) for batch in epoch])


def by_sample(epoch: list[Batch]) -> torch.Tensor:
    """[N, 3, H, W]: the images of an epoch in the order of the training set."""
    return joined(epoch, "image")[joined(epoch, "index").argsort()]


def same(first: list[Batch], second: list[Batch]) -> bool:
    names = ("image", "target", "index")
    return len(first) == len(second) and all(
        joined(first, name).equal(joined(second, name)) for name in names
    )


@pytest.mark.parametrize("drop_last, sizes", [(False, [8] * 6 + [2]), (True, [8] * 6)])
def test_lengths(batches: Callable, drop_last: bool, sizes: list[int]) -> None:
    made = batches(drop_last=drop_last)
    assert [len(batch.index) for batch in made.epoch(1)] == sizes
    assert len(made) == len(sizes)


def test_each_image_once_with_its_own_target(batches: Callable, toy: Dataset) -> None:
    epoch = list(batches("DATASET.AUGMENT", "none").epoch(1))
    index = joined(epoch, "index")
    assert index.sort().values.equal(torch.arange(50)) and not index.equal(torch.arange(50))
    assert joined(epoch, "target").equal(toy.train.targets[index])
    torch.testing.assert_close(by_sample(epoch), toy.train.images.permute(0, 3, 1, 2).float())
    assert all(batch.contrastive_index is None for batch in epoch)


@pytest.mark.parametrize("augment, mirrored", [("crop_flip", True), ("crop", False)])
def test_augments_by_the_table_as_torchvision_would(
    batches: Callable, toy: Dataset, augment: str, mirrored: bool
) -> None:
    table = epoch_table(50, 1, 0, 3, CPU)
    assert 10 < table.flip.sum() < 40
    images = by_sample(list(batches("DATASET.AUGMENT", augment).epoch(3)))
    for sample, image in enumerate(images):
        padded = reference.pad(toy.train.images[sample].permute(2, 0, 1), 1)
        expected = reference.crop(padded, int(table.top[sample]), int(table.left[sample]), 8, 8)
        expected = reference.hflip(expected) if mirrored and table.flip[sample] else expected
        torch.testing.assert_close(image, expected.float())


def test_digits_are_cropped_but_never_mirrored(batches: Callable, toy: Dataset) -> None:
    digits = Dataset(toy.name, toy.classes, toy.train, toy.test, flips=False)
    assert same(
        list(batches(dataset=digits).epoch(1)), list(batches("DATASET.AUGMENT", "crop").epoch(1))
    )
    assert not same(list(batches(dataset=digits).epoch(1)), list(batches().epoch(1)))


def test_an_image_is_the_same_at_any_batch_size(batches: Callable) -> None:
    small, large = list(batches().epoch(2)), list(batches("SOLVER.BATCH_SIZE", 50).epoch(2))
    assert by_sample(small).equal(by_sample(large))
    assert joined(small, "index").equal(joined(large, "index"))


def test_order_is_the_same_with_any_augmentation_and_with_negatives(batches: Callable) -> None:
    variants = batches(), batches("DATASET.AUGMENT", "none"), batches(num_negatives=3)
    orders = [joined(list(variant.epoch(1)), "index") for variant in variants]
    assert orders[0].equal(orders[1]) and orders[0].equal(orders[2])


def test_no_state_between_epochs(batches: Callable) -> None:
    made = batches()
    fifth = list(made.epoch(5))
    next(made.epoch(1))
    assert same(fifth, list(made.epoch(5)))
    assert same(fifth, list(batches().epoch(5)))
    assert not by_sample(fifth).equal(by_sample(list(made.epoch(6))))


def test_seed_is_the_argument_or_the_config(batches: Callable) -> None:
    zero, three = list(batches().epoch(1)), list(batches("SOLVER.SEED", 3).epoch(1))
    assert same(three, list(batches(seed=3).epoch(1)))
    assert same(zero, list(batches("SOLVER.SEED", 3, seed=0).epoch(1)))
    assert not joined(zero, "index").equal(joined(three, "index"))


def test_ranks_interleave_to_the_whole(batches: Callable) -> None:
    options = {"num_negatives": 4, "seed": 1}
    whole = list(batches("SOLVER.BATCH_SIZE", 9, **options).epoch(1))
    ranks = [
        list(batches("SOLVER.BATCH_SIZE", 9, rank=rank, world_size=2, **options).epoch(1))
        for rank in range(2)
    ]
    for everyone, *parts in zip(whole, *ranks, strict=True):
        for rank, part in enumerate(parts):
            for name in ("image", "target", "index", "contrastive_index"):
                assert getattr(part, name).equal(getattr(everyone, name)[rank::2]), name


def test_negatives_are_of_other_classes_and_drawn_per_epoch_and_batch(
    batches: Callable, toy: Dataset
) -> None:
    made = batches(num_negatives=100)
    for number, batch in enumerate(made.epoch(2)):
        assert (
            batch.contrastive_index.shape == (len(batch.index), 101)
            and batch.contrastive_index.dtype == torch.int64
        )
        assert batch.contrastive_index[:, 0].equal(batch.index)
        assert not (
            toy.train.targets[batch.contrastive_index[:, 1:]] == batch.target[:, None]
        ).any()
        draws = made.negatives.draw(len(batch.index), seed=0, epoch=2, batch=number)
        assert batch.contrastive_index.equal(
            made.negatives.contrastive_index(batch.index, batch.target, draws)
        )


def test_iteration_is_lazy_and_leaves_the_global_generators_alone(batches: Callable) -> None:
    made, calls, state = batches(num_negatives=2), [], torch.get_rng_state()
    normalize = made.view.normalize
    made.view.normalize = lambda images: calls.append(len(images)) or normalize(images)
    next(made.epoch(1))
    assert calls == [8]
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format(
    batches: Callable, toy: Dataset, make_config: Callable, channels_last: bool
) -> None:
    train = next(batches("SOLVER.CHANNELS_LAST", channels_last).epoch(1)).image
    evaluated, _ = next(
        iter(EvalBatches(toy, make_config("SOLVER.CHANNELS_LAST", channels_last), "cpu"))
    )
    for image in (train, evaluated):
        assert image.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert image.is_contiguous() != channels_last


def test_eval_batches_are_the_split_in_order(toy: Dataset, make_config: Callable) -> None:
    evaluated = EvalBatches(toy, make_config("DATASET.TEST.BATCH_SIZE", 8), "cpu")
    images, targets = (list(column) for column in zip(*evaluated, strict=True))
    assert [len(image) for image in images] == [8, 8, 4] and len(evaluated) == 3
    expected = toy.test.images.permute(0, 3, 1, 2).float() / 255
    expected = reference.normalize(expected, [0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761])
    torch.testing.assert_close(torch.cat(images), expected, rtol=0, atol=1e-6)
    assert torch.cat(targets).equal(toy.test.targets)
    assert all(image.equal(again) for image, (again, _) in zip(images, evaluated, strict=True))


def test_batch_above_the_training_set_is_refused(batches: Callable) -> None:
    assert len(batches("SOLVER.BATCH_SIZE", 50)) == 1
    with pytest.raises(
        UserError, match="SOLVER.BATCH_SIZE is 51; allowed: 1 to 50, the number of training images"
    ):
        batches("SOLVER.BATCH_SIZE", 51)


def test_a_rank_without_images_is_refused(batches: Callable) -> None:
    batches(world_size=2)
    with pytest.raises(
        UserError, match="SOLVER.BATCH_SIZE 8 leaves a batch of 2 of 50 images for 3 processes"
    ):
        batches(world_size=3)
    batches(world_size=3, drop_last=True)
    with pytest.raises(UserError, match="a batch of 8 of 50 images for 9 processes"):
        batches(world_size=9, drop_last=True)


def test_real_cifar100_is_standardised_by_the_default_mean_and_std(
    shared: Path, make_config: Callable
) -> None:
    path = str(shared / "data" / "cifar100.npz")
    cfg = make_config("DATASET.TYPE", "npz", "DATASET.ROOT", path, "DATASET.TEST.BATCH_SIZE", 1000)
    data = load_dataset(cfg)
    sizes = (len(data.train), len(data.test), data.num_classes)
    assert sizes == (50000, 10000, 100) and data.classes[0] == "apple"
    sums = torch.zeros(2, 3, dtype=torch.float64)
    for image, _ in EvalBatches(replace(data, test=data.train), cfg, "cpu"):
        sums += torch.stack([image.mean((0, 2, 3)), image.square().mean((0, 2, 3))]) / 50
    mean, variance = sums[0], sums[1] - sums[0] ** 2
    torch.testing.assert_close(mean, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(
        variance.sqrt(), torch.ones(3, dtype=torch.float64), rtol=0, atol=2e-3
    )

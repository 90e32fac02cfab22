"""The batched augmentation against torchvision's, image by image; how its draws are distributed."""

import itertools

import pytest
import torch
from torchvision.transforms import functional as reference

from sdkd_plugin.data.augment import Normalize, crop_flip, default_padding, epoch_table

MEAN, STD = [0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]
CPU = torch.device("cpu")


def random_images(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    shape = (count, size, size, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("size, padding", [(32, 4), (8, 1), (9, 2)])
def test_equals_torchvision_at_every_offset(size: int, padding: int) -> None:
    draws = list(itertools.product(range(2 * padding + 1), range(2 * padding + 1), (False, True)))
    images = random_images(len(draws), size)
    top, left, flip = (torch.tensor(column) for column in zip(*draws, strict=True))
    ours = Normalize(MEAN, STD, size, True, CPU)(crop_flip(images, padding, top, left, flip))
    for image, (y, x, mirror), result in zip(images, draws, ours, strict=True):
        expected = reference.crop(reference.pad(image.permute(2, 0, 1), padding), y, x, size, size)
        expected = reference.hflip(expected) if mirror else expected
        expected = reference.normalize(expected.float() / 255, MEAN, STD)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


def test_crop_and_flip_by_hand() -> None:
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)[None, :, :, None].expand(1, 2, 2, 3)
    up, right = torch.tensor([0]), torch.tensor([2])
    assert crop_flip(image, 1, up, right, None)[0, :, :, 0].tolist() == [[0, 0], [2, 0]]
    assert crop_flip(image, 1, up, right, torch.tensor([True]))[0, :, :, 0].tolist() == [
        [0, 0],
        [0, 2],
    ]


def test_normalize_of_every_pixel_value() -> None:
    values = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 1, 1, 3)
    expected = reference.normalize(values.permute(0, 3, 1, 2).double() / 255, MEAN, STD)
    ours = Normalize(MEAN, STD, 1, False, CPU)(values)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format(channels_last: bool) -> None:
    image = Normalize(MEAN, STD, 6, channels_last, CPU)(random_images(5, 6))
    assert image.shape == (5, 3, 6, 6)
    assert image.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert image.is_contiguous() != channels_last


@pytest.mark.parametrize("size, padding", [(32, 4), (28, 4), (16, 2), (8, 1), (64, 8), (3, 1)])
def test_default_padding(size: int, padding: int) -> None:
    assert default_padding(size) == padding


def test_offsets_and_flips_are_uniform_and_independent() -> None:
    tables = [epoch_table(5000, 4, seed=0, epoch=epoch, device=CPU) for epoch in range(1, 11)]
    top, left, flip = (
        torch.cat([getattr(table, name) for table in tables]) for name in ("top", "left", "flip")
    )
    assert (top.min(), top.max(), left.min(), left.max()) == (0, 8, 0, 8)
    cells = torch.bincount((top * 9 + left) * 2 + flip, minlength=162).double()
    expected = 50000 / 162
    statistic = float(((cells - expected) ** 2 / expected).sum())
    # chi-square, 161 degrees of freedom: its 0.1 % and 99.9 % quantiles
    assert 111 < statistic < 222


def test_table_depends_on_seed_and_epoch_only() -> None:
    first, again = (epoch_table(100, 4, 3, 7, CPU) for _ in range(2))
    for name in ("order", "top", "left", "flip"):
        assert getattr(first, name).equal(getattr(again, name))
        for seed, epoch in ((3, 8), (4, 7)):
            assert not getattr(first, name).equal(
                getattr(epoch_table(100, 4, seed, epoch, CPU), name)
            )
    assert first.order.sort().values.equal(torch.arange(100))

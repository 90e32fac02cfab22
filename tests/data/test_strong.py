"""The second view: torchvision's RandAugment by key, beside a first that it leaves as it was."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandAugment

from sdkd_plugin.config import load_config
from sdkd_plugin.data.augment import epoch_table
from sdkd_plugin.data.batches import TrainBatches
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.strong import MAGNITUDE, OPERATIONS, strengthen
from sdkd_plugin.errors import UserError
from sdkd_plugin.randomness import cpu_seeded, torch_seeded

PLAIN = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
TWO = ("DISTILLER.TYPE", "MLLD", "DATASET.VIEWS", 2)


@pytest.fixture
def batches(toy: Dataset, make_config: Callable) -> Callable[..., TrainBatches]:
    def make(*pairs: object, dataset: Dataset = toy, **arguments: int) -> TrainBatches:
        cfg = make_config("SOLVER.BATCH_SIZE", 8, *pairs)
        return TrainBatches(replace(dataset, **PLAIN), cfg, "cpu", **arguments)

    return make


def images(count: int = 6, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, size, size, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_it_is_torchvisions_randaugment_under_the_key():
    given = images()
    made = strengthen(given, torch.arange(10, 16), seed=3, epoch=2)
    for position, (before, after) in enumerate(zip(given, made, strict=True), start=10):
        with torch_seeded(3, "strong", 2, position):
            expected = RandAugment(OPERATIONS, MAGNITUDE)(Image.fromarray(before.numpy()))
        assert np.array_equal(np.asarray(expected), after.numpy())
    assert not torch.equal(given, made) and made.dtype == torch.uint8 and made.shape == given.shape


def test_it_depends_on_seed_epoch_and_image_alone_and_leaves_torchs_generator():
    given, index = images(), torch.arange(6)
    before = torch.get_rng_state()
    made = strengthen(given, index, 0, 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    torch.rand(3)
    order = torch.tensor([4, 1, 5])
    assert torch.equal(strengthen(given[order], index[order], 0, 1), made[order])
    for seed, epoch in ((1, 1), (0, 2)):
        assert not torch.equal(strengthen(given, index, seed, epoch), made)


def test_draws_of_a_key_are_those_of_torch_seeded():
    with torch_seeded(7, "a", 1):
        expected = torch.rand(4)
    with pytest.raises(KeyError), cpu_seeded(7, "a", 1):
        assert torch.equal(torch.rand(4), expected)
        raise KeyError
    state = torch.get_rng_state()
    with cpu_seeded(0):
        torch.rand(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_first_view_is_that_of_a_run_of_one_view(batches):
    one, two = list(batches().epoch(2)), list(batches(*TWO).epoch(2))
    for plain, both in zip(one, two, strict=True):
        assert plain.strong is None and torch.equal(plain.image, both.image)
        assert torch.equal(plain.index, both.index) and torch.equal(plain.target, both.target)


def test_the_second_view_has_a_crop_and_a_flip_of_its_own(batches, toy, monkeypatch):
    """Without RandAugment it is the image, cropped and mirrored by another table."""
    monkeypatch.setattr("sdkd_plugin.data.views.strengthen", lambda images, *key: images)
    monkeypatch.setattr(
        "sdkd_plugin.data.views.crop_flip",
        lambda i, p, top, left, flip: (
            i * 0
            + (100 * flip.to(torch.uint8) + 10 * top.to(torch.uint8) + left.to(torch.uint8))[
                :, None, None, None
            ]
        ),
    )
    table = epoch_table(50, 1, 0, 3, torch.device("cpu"), view="second view")
    first = epoch_table(50, 1, 0, 3, torch.device("cpu"))
    differ = sum((getattr(table, n) != getattr(first, n)).sum() for n in ("top", "left", "flip"))
    assert differ > 50
    for batch in batches(*TWO).epoch(3):
        drawn = (
            100 * table.flip[batch.index] + 10 * table.top[batch.index] + table.left[batch.index]
        )
        assert torch.allclose(batch.strong[:, 0, 0, 0], drawn.float(), atol=1e-3)


def test_ranks_share_both_views(batches):
    whole = list(batches(*TWO, "SOLVER.BATCH_SIZE", 9).epoch(1))
    for rank in range(2):
        own = list(batches(*TWO, "SOLVER.BATCH_SIZE", 9, rank=rank, world_size=2).epoch(1))
        for all_, share in zip(whole, own, strict=True):
            assert torch.equal(all_.strong[rank::2], share.strong)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("DATASET.VIEWS 0", "DATASET.VIEWS is 0; allowed: from 1 to 2"),
        ("DATASET.VIEWS 3", "DATASET.VIEWS is 3; allowed: from 1 to 2"),
        ("DATASET.VIEWS 2 DATASET.TRANSFORM imagenet", "TRANSFORM is imagenet, .*: cifar, none"),
    ],
)
def test_what_gives_no_second_view_is_refused(words, told):
    with pytest.raises(UserError, match=told):
        load_config(None, ["DISTILLER.TYPE", "MLLD", *words.split()])

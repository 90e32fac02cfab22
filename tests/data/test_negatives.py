"""CRD's negatives against a slow version that lists the images of other classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdkd_plugin.data.dataset import Dataset, Images
from sdkd_plugin.data.negatives import NegativeSampler
from sdkd_plugin.errors import UserError

CPU = torch.device("cpu")


def dataset_of(targets: list[int], num_classes: int) -> Dataset:
    split = Images(torch.zeros(len(targets), 2, 2, 3, dtype=torch.uint8), torch.tensor(targets))
    return Dataset("made", [str(c) for c in range(num_classes)], split, split)


def contrastive(data: Dataset, sampler: NegativeSampler, batch: int = 0) -> torch.Tensor:
    """One batch that holds the whole training set."""
    index = torch.arange(len(data.train))
    return sampler.contrastive_index(
        index, data.train.targets, sampler.draw(len(index), 0, 1, batch)
    )


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=30).filter(lambda t: len(set(t)) > 1),
    st.integers(1, 40),
)
def test_equals_the_slow_version(targets: list[int], count: int) -> None:
    data = dataset_of(targets, 6)
    sampler = NegativeSampler(data, count, CPU)
    draws = sampler.draw(len(targets), 0, 1, 0).numpy().view(np.uint32)
    rows = contrastive(data, sampler).tolist()
    for own, (row, bits) in enumerate(zip(rows, draws.tolist(), strict=True)):
        others = [
            i
            for i in sorted(range(len(targets)), key=lambda i: targets[i])
            if targets[i] != targets[own]
        ]
        assert row == [own, *(others[bit * len(others) // 2**32] for bit in bits)]


def test_uniform_over_other_classes_of_unequal_size() -> None:
    targets = [0] * 2 + [1] * 20 + [2] * 7 + [4] * 12  # no image of class 3
    data = dataset_of(targets, 5)
    drawn = contrastive(data, NegativeSampler(data, 40000, CPU))[:, 1:]
    # chi-square, 99.9 % quantile, number of other images - 1 degrees
    critical = {0: 70.7, 1: 45.3, 2: 63.9, 4: 56.9}
    for own in (0, 5, 25, 40):
        others = [i for i, target in enumerate(targets) if target != targets[own]]
        counts = torch.bincount(drawn[own], minlength=len(targets)).double()
        assert counts[[i for i in range(len(targets)) if i not in others]].sum() == 0
        expected = 40000 / len(others)
        assert float(((counts[others] - expected) ** 2 / expected).sum()) < critical[targets[own]]


def test_draws_depend_on_each_part_of_the_key() -> None:
    sampler = NegativeSampler(dataset_of([0, 1], 2), 5, CPU)
    keys = [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1)]
    draws = [sampler.draw(3, *key) for key in keys]
    assert draws[0].shape == (3, 5) and draws[0].dtype == torch.int32
    assert draws[0].equal(sampler.draw(3, *keys[0]))
    assert len({tuple(d.flatten().tolist()) for d in draws}) == len(keys)


def test_one_class_has_no_negatives() -> None:
    with pytest.raises(UserError, match="all 3 training images are of class '1'"):
        NegativeSampler(dataset_of([1, 1, 1], 2), 5, CPU)


def test_never_of_the_own_class_on_real_classes(shared: Path) -> None:
    with np.load(shared / "data" / "cifar100.npz") as archive:
        data = dataset_of(archive["y_train"].tolist(), 100)
    sampler = NegativeSampler(data, 2000, CPU)
    index = torch.arange(0, 50000, 777)
    rows = sampler.contrastive_index(
        index, data.train.targets[index], sampler.draw(len(index), 0, 1, 0)
    )
    assert rows[:, 0].equal(index)
    assert not (data.train.targets[rows[:, 1:]] == data.train.targets[index][:, None]).any()

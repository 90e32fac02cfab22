"""What a network was trained on against what the data are: nothing that matters may differ."""

from dataclasses import replace

import pytest
import torch

from sdkd_plugin.data.dataset import Dataset, Images
from sdkd_plugin.data.spec import DataSpec, chance, describe_classes
from sdkd_plugin.errors import UserError

HERE = DataSpec(["ant", "bee", "cat"], 8, [0.5, 0.4, 0.3], [0.1, 0.2, 0.3])


def test_a_file_says_what_the_data_set_was(toy: Dataset) -> None:
    spec = DataSpec.of(toy)
    assert spec == DataSpec(list("abcde"), 8, list(toy.mean), list(toy.std))
    assert DataSpec.in_file({"model": {}, "data": spec.entry()}, "file") == spec
    assert spec.difference(spec) == ""


@pytest.mark.parametrize("entry", [None, 3, {}, {"classes": ["a"]}, {**HERE.entry(), "more": 1}])
def test_an_entry_of_somebody_else_says_nothing(entry: object) -> None:
    assert DataSpec.in_file({"data": entry}, "file") is None


@pytest.mark.parametrize(
    "change",
    [
        {"classes": "abc"},
        {"classes": [1, 2]},
        {"image_size": 8.0},
        {"image_size": True},
        {"mean": [0.5]},
        {"std": [0.1, 0.2, "0.3"]},
    ],
)
def test_a_malformed_entry_is_refused(change: dict) -> None:
    with pytest.raises(UserError, match="checkpoint file: 'data' is malformed; wanted class names"):
        DataSpec.in_file({"data": HERE.entry() | change}, "file")


@pytest.mark.parametrize(
    "change, told",
    [
        ({"classes": ["bee", "ant", "cat"]}, "class 0 is 'bee' there, 'ant' here (2 of 3 differ)"),
        ({"classes": ["ant", "bee"]}, "2 classes there, 3 here"),
        ({"image_size": 32}, "DATASET.IMAGE_SIZE 32 there, 8 here"),
        ({"mean": [0.5, 0.4, 0.31]}, "DATASET.MEAN [0.5, 0.4, 0.31] there, [0.5, 0.4, 0.3] here"),
        ({"std": [0.2] * 3}, "DATASET.STD [0.2, 0.2, 0.2] there, [0.1, 0.2, 0.3] here"),
        ({"classes": ["\x1b[2J", "bee", "cat"]}, r"class 0 is '\\x1b[2J' there, 'ant' here (1 of"),
        ({"image_size": 9, "std": [0.2] * 3}, "DATASET.IMAGE_SIZE 9 there, 8 here; DATASET.STD"),
    ],
)
def test_what_differs_is_told_with_both_values(change: dict, told: str) -> None:
    found = replace(HERE, **change).difference(HERE)
    assert told in found and "\n" not in found


def test_the_line_at_the_start(toy: Dataset) -> None:
    mean, std = list(toy.mean), list(toy.std)
    assert describe_classes(toy) == (
        f"5 classes (a, b, c, d, e), 5 to 15 training images of each, 8x8 pixels, mean {mean}, "
        f"std {std}"
    )
    targets = torch.arange(50) % 5
    named = replace(toy, classes=["a\n", *"bcdefg"], train=Images(toy.train.images, targets))
    assert describe_classes(named).startswith(r"7 classes (a\n, b, c, d, e, ...), 0 to 10 training")
    even = replace(named, classes=list("abcde"))
    assert ", 10 training images of each," in describe_classes(even)


def test_chance_is_the_most_frequent_class() -> None:
    images = torch.zeros(4, 2, 2, 3, dtype=torch.uint8)
    assert chance(Images(images, torch.tensor([0, 1, 1, 1]))) == 75.0

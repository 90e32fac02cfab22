"""What a network was trained on, as its file says and as the data are: a network is used on data of
the same classes, in the same order, of the same size and normalised alike, or not at all.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sdkd_plugin.data.dataset import Dataset, Images
from sdkd_plugin.errors import UserError
from sdkd_plugin.printable import printable

_SHOWN = 5  # names of classes that a line shows


@dataclass(frozen=True)
class DataSpec:
    """What a network expects of its images.

    Args:
        classes: names, in the order of its logits.
        image_size: height and width, pixels.
        mean, std: per channel, of pixel values in [0, 1], that normalised its images.
    """

    classes: list[str]
    image_size: int
    mean: list[float]
    std: list[float]

    @classmethod
    def of(cls, dataset: Dataset) -> "DataSpec":
        """What a network that is trained on this data set expects."""
        size = dataset.image_size
        return cls(list(dataset.classes), size, list(dataset.mean), list(dataset.std))

    def entry(self) -> dict[str, Any]:
        """The "data" entry of a student's or teacher's file: {"classes", "image_size", "mean",
        "std"}.
        """
        return asdict(self)

    @classmethod
    def in_file(cls, state: dict[str, Any], path: str | Path) -> "DataSpec | None":
        """What a checkpoint says, given what it holds; None for a file that says nothing, from an
        earlier version or from elsewhere.

        Raises:
            UserError: it has such an entry, malformed.
        """
        entry = state.get("data")
        if not isinstance(entry, dict) or entry.keys() != cls.__dataclass_fields__.keys():
            return None
        lists = {"classes": str, "mean": float, "std": float}
        good = type(entry["image_size"]) is int and all(
            isinstance(entry[key], list) and all(type(value) is kind for value in entry[key])
            for key, kind in lists.items()
        )
        if not good or len(entry["mean"]) != 3 or len(entry["std"]) != 3:
            raise UserError(
                f"checkpoint {path}: 'data' is malformed; wanted class names, image size, mean and "
                "std, as a run writes them"
            )
        return cls(**entry)

    def class_difference(self, here: "DataSpec") -> str:
        """How the classes differ from those here, in words; "" if they do not."""
        if len(self.classes) != len(here.classes):
            return f"{len(self.classes)} classes there, {len(here.classes)} here"
        pairs = list(enumerate(zip(self.classes, here.classes, strict=True)))
        wrong = [(label, names) for label, names in pairs if names[0] != names[1]]
        if not wrong:
            return ""
        label, (there, ours) = wrong[0]
        return (
            f"class {label} is {printable(there)!r} there, {printable(ours)!r} here "
            f"({len(wrong)} of {len(pairs)} differ)"
        )

    def difference(self, here: "DataSpec") -> str:
        """All that differs from the data here, in words; "" if nothing does."""
        told = [self.class_difference(here)]
        if self.image_size != here.image_size:
            told.append(f"DATASET.IMAGE_SIZE {self.image_size} there, {here.image_size} here")
        for key in ("mean", "std"):
            there, ours = getattr(self, key), getattr(here, key)
            if not all(math.isclose(*both, abs_tol=1e-6) for both in zip(there, ours, strict=True)):
                told.append(f"DATASET.{key.upper()} {there} there, {ours} here")
        return "; ".join(filter(None, told))


def describe_classes(dataset: Dataset) -> str:
    """Who is to be told apart, and in what: "10 classes (0, 1, 2, 3, 4, ...), 14 to 15 training
    images of each, 8x8 pixels, mean [...], std [...]".
    """
    spec = DataSpec.of(dataset)
    names = [printable(name) for name in spec.classes[:_SHOWN]]
    if len(spec.classes) > _SHOWN:
        names.append("...")
    return (
        f"{len(spec.classes)} classes ({', '.join(names)}), {_per_class(dataset)} training images "
        f"of each, {spec.image_size}x{spec.image_size} pixels, mean {spec.mean}, std {spec.std}"
    )


def chance(split: Images) -> float:
    """Top-1 accuracy, %, of always naming the most frequent class."""
    return 100 * torch.bincount(split.targets).max().item() / len(split)


def _per_class(dataset: Dataset) -> str:
    counts = torch.bincount(dataset.train.targets, minlength=dataset.num_classes)
    low, high = counts.min().item(), counts.max().item()
    return str(low) if low == high else f"{low} to {high}"

"""`python -m sdkd_plugin data`: what a data set holds, and what is wrong with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.data.images import Images
from sdkd_plugin.data.reading import AHEAD
from sdkd_plugin.data.sheet import require_folder, write_sheet
from sdkd_plugin.data.source import pixel_digest
from sdkd_plugin.data.threads import in_order
from sdkd_plugin.printable import printable

_SHOWN = 3  # examples that a line shows


@dataclass(frozen=True)
class Found:
    """The images of a split, gone through once.

    Args:
        digests: of each image's pixels and size.
        sizes: [N, 2] height and width.
    """

    digests: list[bytes]
    sizes: np.ndarray


def show_survey(cfg: CN, sheet: str = "") -> None:
    """Prints sizes, classes, images per class, mean and std, duplicates and broken images.

    Args:
        cfg: DATASET names the images; those that cannot be decoded are listed, not refused.
        sheet: where to write a picture of training images as a network sees them; "": nowhere.
    Raises:
        UserError: what `load_dataset` says; no folder for the sheet.
    """
    if sheet:
        require_folder(Path(sheet))
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASET.BROKEN = "skip"
    dataset = load_dataset(cfg)
    for line in describe(dataset, cfg.DATASET.NUM_WORKERS):
        print(line)
    if sheet:
        shown = write_sheet(dataset, cfg, Path(sheet))
        print(f"{sheet}: {shown} training images of epoch 1 as the network sees them")


def describe(dataset: Dataset, workers: int) -> Iterator[str]:
    """The lines of a survey.

    Args:
        workers: threads that read the images.
    """
    splits = {"train": dataset.train, dataset.evaluates: dataset.test}
    found = {title: go_through(split, title, workers) for title, split in splits.items()}
    yield f"data set {dataset.name}: {dataset.num_classes} classes"
    for title, split in splits.items():
        yield f"{title}: {len(split)} images of {_sizes(found[title].sizes)} pixels"
        yield f"{title}: images per class: {_per_class(split.targets, dataset.classes)}"

    mirrored = "" if dataset.flips else ", and never mirrored, which would change its class"
    yield f"a network sees each at {dataset.image_size}x{dataset.image_size} pixels{mirrored}"
    yield f"mean {list(dataset.mean)}, std {list(dataset.std)}"

    train, test = found["train"], found[dataset.evaluates]
    yield f"duplicates inside train: {_inside(train.digests, dataset.train.targets)}"
    yield (
        f"duplicates between train and {dataset.evaluates}: "
        f"{_between(train.digests, test.digests, dataset)}"
    )
    yield f"broken images, left out: {len(dataset.broken)}"
    yield from (f"  {printable(line)}" for line in dataset.broken)


def go_through(split: Images, title: str, workers: int) -> Found:
    """Looks at every image of a split."""

    def look(number: int) -> tuple[bytes, tuple[int, int]]:
        pixels = split.pixels(number)
        return pixel_digest(pixels), (pixels.shape[0], pixels.shape[1])

    looked = in_order(look, range(len(split)), workers, AHEAD * max(1, workers))
    seen = list(tqdm(looked, f"comparing {title}", total=len(split), disable=None, leave=False))
    return Found([digest for digest, _ in seen], np.array([size for _, size in seen]))


def _sizes(sizes: np.ndarray) -> str:
    """Such as "32x32", or what widths and heights there are."""
    if (sizes == sizes[0]).all():
        return f"{sizes[0][1]}x{sizes[0][0]}"
    (low_height, low_width), (high_height, high_width) = sizes.min(0), sizes.max(0)
    return f"width {low_width} to {high_width} and height {low_height} to {high_height}"


def _per_class(targets: Tensor, classes: list[str]) -> str:
    counts = torch.bincount(targets, minlength=len(classes))
    low, high = int(counts.argmin()), int(counts.argmax())
    median = float(np.median(counts.numpy()))
    return (
        f"min {counts[low]} ({printable(classes[low])}), median {median:g}, "
        f"max {counts[high]} ({printable(classes[high])})"
    )


def _inside(digests: list[bytes], targets: Tensor) -> str:
    """How many images repeat an earlier one."""
    first: dict[bytes, int] = {}
    pairs = []
    for number, digest in enumerate(digests):
        if first.setdefault(digest, number) != number:
            pairs.append((first[digest], number))
    other = sum(int(targets[before] != targets[number]) for before, number in pairs)
    examples = [f"train {before} = train {number}" for before, number in pairs]
    return _told(len(pairs), other, examples)


def _between(train: list[bytes], test: list[bytes], dataset: Dataset) -> str:
    """How many evaluated images were trained on."""
    known = {digest: number for number, digest in reversed(list(enumerate(train)))}
    pairs = [(known[digest], number) for number, digest in enumerate(test) if digest in known]
    own, others = dataset.train.targets, dataset.test.targets
    other = sum(int(own[before] != others[number]) for before, number in pairs)
    name = dataset.evaluates
    return _told(len(pairs), other, [f"train {a} = {name} {b}" for a, b in pairs])


def _told(count: int, other: int, examples: list[str]) -> str:
    if not count:
        return "none"
    shown = ", ".join(examples[:_SHOWN])
    more = ", ..." if count > _SHOWN else ""
    return f"{count} images, {other} of them of another class ({shown}{more}; counted from 0)"

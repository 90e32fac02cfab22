"""How fast images reach a network, as ratios of variants timed in turn within one run.

    python benchmarks/decoding.py --data cifar100.npz [--images 10000] [--workers 2] [--rounds 3]

Variants, each in its own process, one epoch of batches of 64:
    decoded here            JPEG files, by DATASET.DECODE always and TRANSFORM imagenet at 224
    decoded by torchvision  the same files, by ImageFolder and a DataLoader with as many workers and
                            torchvision's transforms of the same kind
    cached, npz             batches of the same pixels at 32x32, from an image folder's mapped cache
                            and from an npz file in memory
    cached trained, npz trained   the same as an epoch of training resnet20

The files are CIFAR-100's images, as many of each class, enlarged to 256x256; they lie in a folder
that is removed again, and are read once before anything is timed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from measuring import command_line, say_environment, spread
from PIL import Image
from throughput import BATCH, package_steps
from torchvision import transforms
from torchvision.datasets import ImageFolder

from sdkd_plugin.config import default_config
from sdkd_plugin.data.batches import TrainBatches
from sdkd_plugin.data.dataset import Dataset, load_dataset

CLASSES, STORED, SEEN, SMALL = 100, 256, 224, 32
QUALITY = 90  # of the JPEG files
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# (numerator, denominator of images per second, what the ratio should be)
RATIOS = (
    ("decoded here", "decoded by torchvision", "wanted: at least 1"),
    ("cached", "npz", "batches alone"),
    ("cached trained", "npz trained", "wanted: at least 0.95"),
)


def write_images(data: str, count: int, folder: Path) -> None:
    """train/ with this many JPEG files, and test/ with one of each class."""
    with np.load(data) as arrays:
        images, labels = arrays["x_train"], arrays["y_train"]
    each = count // CLASSES
    for label in range(CLASSES):
        chosen = np.flatnonzero(labels == label)[: each + 1]
        for split, positions in (("train", chosen[:each]), ("test", chosen[each:])):
            place = folder / split / f"{label:02}"
            place.mkdir(parents=True)
            for position in positions:
                image = Image.fromarray(images[position]).resize((STORED, STORED))
                image.save(place / f"{position}.jpg", quality=QUALITY)


def write_small(folder: Path, workers: int) -> None:
    """The cache of the small images, and the npz file that holds the same."""
    cached = load(folder, workers, *small(folder))
    splits = {"train": cached.train, "test": cached.test}
    images = {f"x_{name}": split.images.numpy() for name, split in splits.items()}
    targets = {f"y_{name}": split.targets.numpy() for name, split in splits.items()}
    np.savez(folder / "small.npz", **images, **targets)


def load(folder: Path, workers: int, *pairs: object) -> Dataset:
    """The folder's images, as these keys want them."""
    own = ("DATASET.TYPE", "imagefolder", "DATASET.ROOT", str(folder))
    constants = ("DATASET.MEAN", MEAN, "DATASET.STD", STD, "DATASET.NUM_WORKERS", workers)
    cfg = default_config()
    cfg.merge_from_list([*own, *constants, *pairs])
    return load_dataset(cfg)


def small(folder: Path) -> tuple[object, ...]:
    """The keys of images that are shrunk and kept in the cache."""
    return ("DATASET.IMAGE_SIZE", SMALL, "DATASET.CACHE", str(folder / "cache"))


def packed(folder: Path) -> tuple[object, ...]:
    """The keys of the npz file."""
    return ("DATASET.TYPE", "npz", "DATASET.ROOT", str(folder / "small.npz"))


def batches(dataset: Dataset, workers: int, *pairs: object) -> Iterator[int]:
    """This package's batches of an epoch, by their numbers of images."""
    cfg = default_config()
    cfg.merge_from_list(["SOLVER.BATCH_SIZE", BATCH, "DATASET.NUM_WORKERS", workers, *pairs])
    for batch in TrainBatches(dataset, cfg, "cpu").epoch(1):
        yield len(batch.image)


def decoded_here(folder: Path, workers: int) -> Iterator[int]:
    """Files that this package decodes anew each time."""
    resized = ("DATASET.TRANSFORM", "imagenet", "DATASET.IMAGE_SIZE", SEEN)
    dataset = load(folder, workers, *resized, "DATASET.DECODE", "always")
    return batches(dataset, workers, *resized)


def decoded_by_torchvision(folder: Path, workers: int) -> Iterator[int]:
    """The same files as torchvision's classification references load them."""
    steps = [
        transforms.RandomResizedCrop(SEEN),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    images = ImageFolder(str(folder / "train"), transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(images, BATCH, shuffle=True, num_workers=workers)
    return (len(image) for image, _ in loader)


def trained(dataset: Dataset) -> Iterator[int]:
    """The steps of an epoch of training, by their numbers of images."""
    left = len(dataset.train)
    for _ in package_steps("NONE", dataset):
        yield min(BATCH, left)
        left -= BATCH


VARIANTS: dict[str, Callable[[Path, int], Iterator[int]]] = {
    "decoded here": decoded_here,
    "decoded by torchvision": decoded_by_torchvision,
    "cached": lambda folder, workers: batches(load(folder, workers, *small(folder)), workers),
    "npz": lambda folder, workers: batches(load(folder, workers, *packed(folder)), workers),
    "cached trained": lambda folder, workers: trained(load(folder, workers, *small(folder))),
    "npz trained": lambda folder, workers: trained(load(folder, workers, *packed(folder))),
}


def measure(variant: str, folder: Path, workers: int, count: int) -> float:
    """Images/s of an epoch, which has `count` of them."""
    epoch = VARIANTS[variant](folder, workers)
    began = time.perf_counter()
    seen = sum(epoch)
    seconds = time.perf_counter() - began
    assert seen == count, f"{variant} gave {seen} images of {count}"
    return seen / seconds


def timed(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Images/s of each variant in each round; every other round takes them in reverse."""
    figures: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(options.rounds):
        for variant in list(VARIANTS)[:: -1 if number % 2 else 1]:
            command = [sys.executable, __file__, "--one", variant, "--folder", str(folder)]
            for key in ("data", "workers", "images"):
                command += [f"--{key}", str(getattr(options, key))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures[variant].append(json.loads(done.stdout.splitlines()[-1]))
    return figures


def main() -> None:
    """Times every variant in turn and prints figures and ratios with their spread."""
    parser = command_line(__doc__, rounds=3)
    parser.add_argument("--data", required=True, help="CIFAR-100 as npz")
    parser.add_argument(
        "--images", type=int, default=10_000, help="at most 49900, each class alike"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.folder, options.workers, options.images)))
        return

    with tempfile.TemporaryDirectory() as folder:
        write_images(options.data, options.images, Path(folder))
        write_small(Path(folder), options.workers)
        figures = timed(options, Path(folder))
    say_environment()
    for variant, speeds in figures.items():
        print(f"{variant:22} images/s {spread(speeds, 0)}")
    for upper, lower, text in RATIOS:
        pairs = zip(figures[upper], figures[lower], strict=True)
        print(f"{upper} / {lower} {spread([a / b for a, b in pairs])}   {text}")


if __name__ == "__main__":
    main()

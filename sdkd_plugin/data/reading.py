"""A source's images are decoded, in order, by threads; what is learnt on the way is kept."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin.data.dataset import shrink
from sdkd_plugin.data.images import Images
from sdkd_plugin.data.pictures import DIGEST, Packed
from sdkd_plugin.data.source import Source
from sdkd_plugin.data.statistics import count_levels
from sdkd_plugin.data.threads import in_order
from sdkd_plugin.errors import UserError

AHEAD = 4  # images per thread that may wait to be taken


@dataclass(frozen=True)
class Reading:
    """How a split is read.

    Args:
        size: pixels of the square that each image is shrunk to; 0: as stored.
        several: whether images may have several sizes.
        workers: threads that decode; 0: the calling one.
        skip: whether images that cannot be decoded are left out instead of refused.
    """

    size: int
    several: bool
    workers: int
    skip: bool

    @classmethod
    def of(cls, cfg: CN) -> "Reading":
        """As a config says."""
        node = cfg.DATASET
        several = node.TRANSFORM == "imagenet"
        size = 0 if several else node.IMAGE_SIZE
        return cls(size, several, node.NUM_WORKERS, node.BROKEN == "skip")


@dataclass
class Tally:
    """What is known of the images that were read so far.

    Args:
        kept: numbers in the source of those that could be decoded.
        sizes: height and width of each.
        digests: of each.
        levels: [3, 256] how often their pixels, before they were shrunk, have each value.
        broken: why others could not, a line each.
    """

    kept: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    levels: Tensor = field(default_factory=lambda: torch.zeros(3, 256, dtype=torch.int64))
    broken: list[str] = field(default_factory=list)

    @property
    def starts(self) -> np.ndarray:
        """[N] where each image begins, were they written one after another."""
        lengths = [3 * height * width for height, width in self.sizes]
        return np.cumsum([0, *lengths[:-1]], dtype=np.int64)


@dataclass(frozen=True)
class Split:
    """One split as it is used, and what was learnt while reading it.

    Args:
        levels, broken: as `Tally` has them.
    """

    images: Images
    levels: Tensor
    broken: tuple[str, ...]


def read_pixels(
    source: Source, reading: Reading, tally: Tally, first: int = 0
) -> Iterator[np.ndarray | None]:
    """Decodes a source's images from number `first` on, in order; None stands for one left out.

    Args:
        tally: is told of each image before it is handed out.
    Raises:
        UserError: an image cannot be decoded and `reading.skip` is not set, or whatever that says
            is smaller than `reading.size` or has another size than the first where that is not
            allowed.
    """

    def make(number: int) -> tuple[np.ndarray, bytes, Tensor] | UserError:
        try:
            picture = source.read(number)
        except UserError as error:
            return error
        images = torch.from_numpy(picture.pixels)[None]  # [1, H, W, 3]
        levels = count_levels(images)
        if reading.size:
            images = shrink(images, reading.size, f"image {source.name(number)!r}")
        return images[0].numpy(), picture.digest, levels

    numbers = range(first, len(source))
    made = in_order(make, numbers, reading.workers, AHEAD * max(1, reading.workers))
    # None: no bar where there is no terminal
    bar = partial(tqdm, desc=f"decoding {source.title}", disable=None)
    for number, result in zip(numbers, bar(made, total=len(source), initial=first), strict=True):
        if isinstance(result, UserError):
            if not reading.skip:
                raise result
            tally.broken.append(str(result))
            yield None
            continue

        pixels, digest, levels = result
        _check_size(source, reading, tally, number, pixels)
        tally.kept.append(number)
        tally.sizes.append((pixels.shape[0], pixels.shape[1]))
        tally.digests.append(digest)
        tally.levels += levels
        yield pixels


def assemble(
    source: Source, reading: Reading, tally: Tally, buffer: np.ndarray, mapped: bool
) -> Split:
    """The split of images that lie one after another in a buffer.

    Args:
        buffer: [bytes] uint8.
        mapped: whether it is a file's, which no copy must be made of.
    Raises:
        UserError: none could be decoded.
    """
    require_some(source, tally, len(tally.kept))
    targets = torch.tensor([source.targets[number] for number in tally.kept], dtype=torch.int64)
    if reading.several:
        sizes = np.array(tally.sizes, np.int64)
        digests = np.frombuffer(b"".join(tally.digests), np.uint8).reshape(-1, DIGEST)
        images = Images(Packed(buffer, tally.starts, sizes, digests), targets)
    else:
        whole = torch.from_numpy(buffer.reshape(len(targets), *tally.sizes[0], 3))
        images = Images(whole, targets, torch.arange(len(targets)) if mapped else None)
    return Split(images, tally.levels, tuple(tally.broken))


def _check_size(
    source: Source, reading: Reading, tally: Tally, number: int, pixels: np.ndarray
) -> None:
    if reading.several or not tally.sizes:
        return
    height, width = tally.sizes[0]
    if pixels.shape[:2] != (height, width):
        raise UserError(
            f"images differ in size: {source.name(tally.kept[0])!r} is {width}x{height}, "
            f"{source.name(number)!r} is {pixels.shape[1]}x{pixels.shape[0]}; set "
            "DATASET.IMAGE_SIZE, or DATASET.TRANSFORM imagenet, which resizes them"
        )


def require_some(source: Source, tally: Tally, count: int) -> None:
    """Raises UserError where all images of a split had to be left out."""
    if not count:
        raise UserError(f"no image of {source.title} can be decoded: {tally.broken[0]}")

"""Where a split's decoded images stay is the config's choice: in memory, in a mapped file, or
nowhere.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin.data.cache import cache_stamp, load_cached, unbuildable
from sdkd_plugin.data.dataset import Dataset, require_memory
from sdkd_plugin.data.images import Images
from sdkd_plugin.data.pictures import DIGEST, Unread
from sdkd_plugin.data.reading import (
    AHEAD,
    Reading,
    Split,
    Tally,
    assemble,
    read_pixels,
    require_some,
)
from sdkd_plugin.data.source import Source
from sdkd_plugin.data.statistics import count_levels, mean_and_std
from sdkd_plugin.data.threads import in_order
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import write_bytes

Constants = tuple[float, ...]


def load_split(source: Source, cfg: CN) -> Split:
    """A source's images where DATASET.DECODE and DATASET.CACHE want them.

    Raises:
        UserError: what `read_pixels` and `load_cached` say; more images than the memory holds, or
            keys that do not go together.
    """
    reading = Reading.of(cfg)
    if cfg.DATASET.DECODE == "always":
        return _unread(source, reading, cfg.DATASET.CACHE)
    if cfg.DATASET.CACHE:
        return load_cached(source, reading, cfg.DATASET.CACHE)
    return _in_memory(source, reading)


def load_both(name: str, classes: list[str], train: Source, test: Source, cfg: CN) -> Dataset:
    """Both splits as a data set. Raises UserError, as `load_split` does.

    Args:
        name: of the data set.
        classes: names, in the order of the targets.
    """
    trained = load_split(train, cfg)
    evaluated = load_split(test, cfg)
    mean, std = training_constants(trained, cfg)
    return Dataset(
        name,
        classes,
        trained.images,
        evaluated.images,
        mean=mean,
        std=std,
        broken=(*trained.broken, *evaluated.broken),
    )


def training_constants(trained: Split, cfg: CN) -> tuple[Constants, Constants]:
    """Mean and std of the training images, but where the config gives both, in which case images
    that are decoded anew each time need not be gone through.
    """
    if cfg.DATASET.MEAN and cfg.DATASET.STD:
        return tuple(cfg.DATASET.MEAN), tuple(cfg.DATASET.STD)
    levels = trained.levels
    if isinstance(trained.images.images, Unread) and not levels.any():
        levels = _measured(trained.images.images, cfg.DATASET.NUM_WORKERS)
    return mean_and_std(levels)


def _measured(pictures: Unread, workers: int) -> Tensor:
    """[3, 256]: the levels of images that are decoded anew each time."""

    def count(number: int) -> Tensor:
        return count_levels(torch.from_numpy(pictures.pixels(number))[None])

    counted = in_order(count, range(len(pictures)), workers, AHEAD * max(1, workers))
    levels = torch.zeros(3, 256, dtype=torch.int64)
    for own in tqdm(counted, "measuring mean and std", total=len(pictures), disable=None):
        levels += own
    return levels


def _in_memory(source: Source, reading: Reading) -> Split:
    tally = Tally()
    parts: list[np.ndarray] = []
    whole: np.ndarray | None = None
    for pixels in read_pixels(source, reading, tally):
        if pixels is None:
            continue
        count = len(tally.kept)
        if count == 1:
            # images of several sizes are there twice: as single ones, and together
            copies = 2 if reading.several else 1
            require_memory(copies * len(source) * pixels.nbytes, f"{source.title!r} decoded")
            if not reading.several:
                whole = np.empty((len(source), *pixels.shape), np.uint8)
        if whole is None:
            parts.append(pixels.reshape(-1))
        else:
            whole[count - 1] = pixels

    if whole is not None:
        buffer = whole[: len(tally.kept)].reshape(-1)
    else:
        buffer = np.concatenate(parts) if parts else np.empty(0, np.uint8)
    return assemble(source, reading, tally, buffer, mapped=False)


def _unread(source: Source, reading: Reading, folder: str) -> Split:
    """A split that is decoded anew each time; `levels` are 0 where nothing has read it yet.

    Args:
        folder: keeps the digests, for which every file must be read; "": nobody does.
    """
    if not reading.several:
        raise UserError(
            "DATASET.DECODE is always, which needs images that are resized anew each time: set "
            "DATASET.TRANSFORM imagenet, or DATASET.DECODE once"
        )

    tally = Tally()
    numbers = np.arange(len(source))
    if reading.skip:  # to know which are broken all must be decoded once
        for _ in read_pixels(source, reading, tally):
            pass
        numbers = np.array(tally.kept, np.int64)
    require_some(source, tally, len(numbers))
    pictures = Unread(
        lambda number: source.read(number).pixels,
        lambda: _all_digests(source, reading, folder),
        numbers,
    )
    targets = torch.tensor(source.targets, dtype=torch.int64)[numbers]
    return Split(Images(pictures, targets), tally.levels, tuple(tally.broken))


def _all_digests(source: Source, reading: Reading, folder: str) -> np.ndarray:
    """[N, DIGEST] uint8 of every image of a source."""
    kept = Path(folder, f"{cache_stamp(source, reading)}.digests") if folder else None
    if kept is not None and kept.is_file():
        content = kept.read_bytes()
        if len(content) == DIGEST * len(source):
            return np.frombuffer(content, np.uint8).reshape(-1, DIGEST)

    def digest(number: int) -> bytes:
        try:
            return source.digest(number)
        except UserError:
            if not reading.skip:
                raise
            return bytes(DIGEST)  # of one that is left out

    ahead = AHEAD * max(1, reading.workers)
    found = in_order(digest, range(len(source)), reading.workers, ahead)
    title = f"hashing {source.title}"
    content = b"".join(tqdm(found, title, total=len(source), disable=None))
    if kept is not None:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unbuildable(kept, error) from error
        write_bytes(kept, content)
    return np.frombuffer(content, np.uint8).reshape(-1, DIGEST)

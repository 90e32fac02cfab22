"""A data set is two splits of uint8 images, in memory or in a mapped file, cut to what the config
asks for.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from yacs.config import CfgNode as CN

from sdkd_plugin.data.images import Images, content_hash
from sdkd_plugin.data.statistics import count_levels, mean_and_std
from sdkd_plugin.errors import UserError
from sdkd_plugin.randomness import keyed_generator
from sdkd_plugin.registry import DATASETS

_RESIZE_CHUNK = 1000  # images; bounds the float32 copy that averaging needs
IMAGENET_SIZE = 224  # pixels, of TRANSFORM imagenet unless IMAGE_SIZE says otherwise


@dataclass(frozen=True)
class Dataset:
    """A training split and the split that accuracy is measured on.

    Args:
        classes: names, in the order of the targets.
        test: the split that is evaluated.
        evaluates: what `test` holds: "test", or "val" for images held out of training.
        flips: whether a mirrored image still belongs to its class (False for digits).
        mean, std: per channel, of pixel values in [0, 1], for normalising both splits; left empty:
            those of the training images that the data set is built with, to four decimals. What is
            taken from it later with `dataclasses.replace` keeps them.
        resized: pixels of the square that each image is cropped and resized to whenever it is used
            (DATASET.TRANSFORM imagenet); 0: images are used at their stored size.
        broken: a line on each image that was left out (DATASET.BROKEN skip).
    """

    name: str
    classes: list[str]
    train: Images
    test: Images
    evaluates: str = "test"
    flips: bool = True
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resized: int = 0
    broken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mean and self.std:
            return

        assert isinstance(self.train.images, Tensor), "who reads several sizes measures them"
        mean, std = mean_and_std(count_levels(self.train.images))
        # frozen for everybody else
        object.__setattr__(self, "mean", self.mean or mean)
        object.__setattr__(self, "std", self.std or std)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_size(self) -> int:
        """Height and width of what a network sees, pixels."""
        size = self.train.size
        assert self.resized or size is not None
        return self.resized or (size[0] if size else 0)

    @cached_property
    def fingerprint(self) -> str:
        """What a run's identity calls its data: both splits, as they are used, by their hash."""
        return content_hash(self.train, self.test)


def load_dataset(cfg: CN) -> Dataset:
    """Builds DATASET.TYPE and applies MEAN, STD, IMAGE_SIZE, SUBSET and VAL_FRACTION.

    SUBSET and VAL_FRACTION choose the same images whatever SOLVER.SEED is, since seeds that train
    on different images cannot be compared; a smaller fraction's images are among a larger one's.
    VAL_FRACTION is taken from the kept subset and takes the place of the test images. Mean and
    std, where MEAN and STD do not give them, are the whole data set's, whatever is kept of it.

    With TRANSFORM imagenet images keep their sizes, and IMAGE_SIZE is what they are resized to.

    Raises:
        UserError: the data cannot be read or are malformed, fewer than two classes or not CLASSES
            of them, images that are not square, IMAGE_SIZE above the stored size, or VAL_FRACTION
            that leaves a class without training images.
    """
    node = cfg.DATASET
    data: Dataset = DATASETS[node.TYPE].build(cfg)
    _note_idle(node, data)
    if data.num_classes < 2:
        raise UserError(
            f"data set {data.name!r} has {data.num_classes} class; at least 2 are needed: "
            f"check DATASET.ROOT {node.ROOT!r}"
        )
    if node.CLASSES not in (0, data.num_classes):
        raise UserError(
            f"DATASET.CLASSES is {node.CLASSES} but data set {data.name!r} names "
            f"{data.num_classes} classes; allowed: 0 (as the data say) or {data.num_classes}"
        )

    train = data.train
    test = data.test
    if node.SUBSET < 1:
        counts = [max(1, round(node.SUBSET * count)) for count in _class_counts(train.targets)]
        train = train.take(choose_per_class(train.targets, counts, "subset"))
    if node.VAL_FRACTION > 0:
        train, test = hold_out(train, node.VAL_FRACTION, data.classes)
        data = replace(data, evaluates="val")

    mean = tuple(node.MEAN) or data.mean
    std = tuple(node.STD) or data.std
    data = replace(data, train=train, test=test, mean=mean, std=std)
    if node.TRANSFORM == "imagenet":
        return replace(data, resized=node.IMAGE_SIZE or IMAGENET_SIZE)
    return _at_one_size(data, node.IMAGE_SIZE)


def _note_idle(node: CN, data: Dataset) -> None:
    """Says which keys did nothing, since there was nothing to decode."""
    if not isinstance(data.train.images, Tensor) or data.train.rows is not None:
        return
    given = {"DATASET.CACHE": node.CACHE, "DATASET.DECODE": node.DECODE != "once"}
    idle = [key for key, value in given.items() if value]
    if idle:
        print(f"note: without effect, {node.TYPE} is stored decoded: {', '.join(idle)}")


def require_memory(needed: int, what: str) -> None:
    """Raises UserError where `what` needs more bytes than this machine has left: to be told is
    better than to be killed.
    """
    available = psutil.virtual_memory().available
    if needed > available:
        raise UserError(
            f"{what} needs {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are "
            "left; set DATASET.CACHE to a folder on a disk that holds them (folders and "
            "torchvision's), or keep smaller or fewer images (DATASET.ROOT)"
        )


def choose_per_class(targets: Tensor, counts: list[int], purpose: str) -> np.ndarray:
    """Positions of counts[c] images of each class c, ascending.

    The draw depends on `purpose` and len(targets) alone: images are ranked once and the first of
    each class taken, so that smaller counts choose among what larger ones do.

    Args:
        targets: [N] class numbers.
        counts: how many of each class, at most as many as there are; a class that `targets` lacks
            may have any count.
    """
    ranking = keyed_generator(0, purpose).permutation(len(targets))
    ranked_targets = targets.numpy()[ranking]
    chosen = [ranking[ranked_targets == label][:count] for label, count in enumerate(counts)]
    return np.sort(np.concatenate(chosen))


def shrink(images: Tensor, size: int, what: str) -> Tensor:
    """Averages the area under each new pixel, rounded to whole pixel values.

    Images of that size are returned as they are.

    Args:
        images: [N, H, W, 3] uint8.
        size: new height and width, pixels.
        what: how an error calls these images.
    Raises:
        UserError: `size` is above H or W.
    """
    height, width = images.shape[1:3]
    if height == width == size:
        return images
    if size > min(height, width):
        raise UserError(
            f"DATASET.IMAGE_SIZE is {size} but {what} is {width}x{height} and is never enlarged; "
            f"allowed: 0 (as stored) to {min(height, width)}"
        )

    result = images.new_empty(len(images), size, size, 3)
    for start in range(0, len(images), _RESIZE_CHUNK):
        chunk = images[start : start + _RESIZE_CHUNK].permute(0, 3, 1, 2).float()  # [n, 3, H, W]
        averaged = interpolate(chunk, size=(size, size), mode="area").round()  # [n, 3, size, size]
        result[start : start + _RESIZE_CHUNK] = averaged.permute(0, 2, 3, 1).to(torch.uint8)
    return result


def _class_counts(targets: Tensor) -> list[int]:
    return torch.bincount(targets).tolist()


def hold_out(train: Images, fraction: float, classes: list[str]) -> tuple[Images, Images]:
    """Splits off this fraction of each class, the same images whatever SOLVER.SEED is.

    Returns:
        (kept, held out).
    Raises:
        UserError: a class would be left without training images.
    """
    present = _class_counts(train.targets)
    counts = [max(1, round(fraction * count)) for count in present]
    for label, (taken, count) in enumerate(zip(counts, present, strict=True)):
        if 0 < count <= taken:
            raise UserError(
                f"DATASET.VAL_FRACTION {fraction} holds out all {count} training images of class "
                f"{classes[label]!r}; lower it or raise DATASET.SUBSET"
            )

    held = choose_per_class(train.targets, counts, "val")
    kept = np.setdiff1d(np.arange(len(train)), held)
    return train.take(kept), train.take(held)


def _at_one_size(data: Dataset, size: int) -> Dataset:
    train = _sized(data.train, size)
    test = _sized(data.test, size)
    if train.size != test.size:
        raise UserError(
            f"images of data set {data.name!r} differ in size: train {_size(train)}, "
            f"test {_size(test)}; set DATASET.IMAGE_SIZE"
        )
    return replace(data, train=train, test=test)


def _sized(split: Images, size: int) -> Images:
    assert isinstance(split.images, Tensor)
    if size:
        return replace(split, images=shrink(split.images, size, "a stored image"))

    height, width = split.images.shape[1:3]
    if height != width:
        raise UserError(
            f"images are {_size(split)}; they must be square: "
            f"set DATASET.IMAGE_SIZE, at most {min(height, width)}"
        )
    return split


def _size(split: Images) -> str:
    assert split.size is not None
    height, width = split.size
    return f"{width}x{height}"

"""What a network sees of a split's images, batch by batch: at their stored size or resized anew."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from sdkd_plugin.data.augment import EpochTable, Normalize, crop_flip, default_padding
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.images import Images
from sdkd_plugin.data.resized import crop_box, evaluation_view, train_view
from sdkd_plugin.data.strong import strengthen
from sdkd_plugin.data.threads import in_order

AHEAD = 2  # batches that threads may have made before they are asked for
TOGETHER = 4  # images that a thread makes at a time


class View(ABC):
    """The images of a split as batches [N, 3, size, size] float32, normalised."""

    def __init__(self, dataset: Dataset, split: Images, cfg: CN, device: torch.device):
        self.split = split
        self.device = device
        self.size = dataset.image_size
        augment = "none" if cfg.DATASET.TRANSFORM == "none" else cfg.DATASET.AUGMENT
        self.crops = augment != "none"
        self.flips = augment == "crop_flip" and dataset.flips
        self.padding = default_padding(self.size)
        layout = cfg.SOLVER.CHANNELS_LAST
        self.normalize = Normalize(dataset.mean, dataset.std, self.size, layout, device)

    @abstractmethod
    def train(
        self, indices: Iterable[Tensor], table: EpochTable, seed: int, epoch: int
    ) -> Iterator[Tensor]:
        """Augmented batches.

        Args:
            indices: [n] positions in the split, of each batch.
            table: what is random about the epoch, on the device.
        """

    @abstractmethod
    def evaluate(self, first: int, step: int, size: int) -> Iterator[Tensor]:
        """Images first::step of the split, in order, unaugmented, in batches of `size`."""


def make_view(dataset: Dataset, split: Images, cfg: CN, device: torch.device) -> View:
    """The view that the data set's images are used by."""
    kind = ResizedView if dataset.resized else StoredView
    return kind(dataset, split, cfg, device)


class StoredView(View):
    """Images of one size, kept on the device; those of a mapped file stay there."""

    def __init__(self, dataset: Dataset, split: Images, cfg: CN, device: torch.device):
        super().__init__(dataset, split, cfg, device)
        assert isinstance(split.images, Tensor)
        if split.rows is None:
            self.split = Images(split.images.to(device), split.targets)

    def train(
        self, indices: Iterable[Tensor], table: EpochTable, seed: int, epoch: int
    ) -> Iterator[Tensor]:
        for index in indices:
            yield self.normalize(self._augment(index, table))

    def strong(
        self, indices: Iterable[Tensor], table: EpochTable, seed: int, epoch: int
    ) -> Iterator[Tensor]:
        """As `train`, with RandAugment after crop and flip."""
        for index in indices:
            yield self.normalize(strengthen(self._augment(index, table), index, seed, epoch))

    def _augment(self, index: Tensor, table: EpochTable) -> Tensor:
        images = self._select(index)
        if not self.crops:
            return images
        flip = table.flip[index] if self.flips else None
        return crop_flip(images, self.padding, table.top[index], table.left[index], flip)

    def evaluate(self, first: int, step: int, size: int) -> Iterator[Tensor]:
        if self.split.rows is None:
            assert isinstance(self.split.images, Tensor)
            for images in self.split.images[first::step].split(size):
                yield self.normalize(images)
            return
        for index in torch.arange(len(self.split))[first::step].split(size):
            yield self.normalize(self._select(index))

    def _select(self, index: Tensor) -> Tensor:
        if self.split.rows is None:
            return self.split.select(index)
        return self.split.select(index.cpu()).to(self.device)


class ResizedView(View):
    """Images of any size, cropped and resized on the CPU by DATASET.NUM_WORKERS threads."""

    def __init__(self, dataset: Dataset, split: Images, cfg: CN, device: torch.device):
        super().__init__(dataset, split, cfg, device)
        self.workers: int = cfg.DATASET.NUM_WORKERS

    def train(
        self, indices: Iterable[Tensor], table: EpochTable, seed: int, epoch: int
    ) -> Iterator[Tensor]:
        flips = table.flip.tolist()

        def make(sample: int) -> np.ndarray:
            pixels = self.split.pixels(sample)
            if not self.crops:
                return evaluation_view(pixels, self.size)
            box = crop_box(pixels.shape[0], pixels.shape[1], seed, epoch, sample)
            return train_view(pixels, self.size, box, self.flips and flips[sample])

        return self._batches(make, [index.tolist() for index in indices])

    def evaluate(self, first: int, step: int, size: int) -> Iterator[Tensor]:
        numbers = range(len(self.split))[first::step]
        batches = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        return self._batches(
            lambda number: evaluation_view(self.split.pixels(number), self.size), batches
        )

    def _batches(
        self, make: Callable[[int], np.ndarray], batches: Sequence[Sequence[int]]
    ) -> Iterator[Tensor]:
        """Batches of [size, size, 3] views; a thread makes TOGETHER of them before it hands over,
        since each hand-over has the threads wait for the interpreter's lock.
        """
        parts = [list(_parts(batch)) for batch in batches]
        ahead = max(self.workers, AHEAD * max(map(len, parts), default=0))
        made = in_order(
            lambda part: np.stack([make(number) for number in part]),
            (part for batch in parts for part in batch),
            self.workers,
            ahead,
        )
        for batch in parts:
            views = np.concatenate(list(islice(made, len(batch))))  # [N, size, size, 3]
            yield self.normalize(torch.from_numpy(views).to(self.device))


def _parts(batch: Sequence[int]) -> Iterator[Sequence[int]]:
    return (batch[start : start + TOGETHER] for start in range(0, len(batch), TOGETHER))

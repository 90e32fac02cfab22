"""What a network sees of a split's images, batch by batch: at their stored size or resized anew."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
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
        batches = [index.tolist() for index in indices]
        flips = table.flip.tolist()

        def make(sample: int) -> np.ndarray:
            pixels = self.split.pixels(sample)
            if not self.crops:
                return evaluation_view(pixels, self.size)
            box = crop_box(pixels.shape[0], pixels.shape[1], seed, epoch, sample)
            return train_view(pixels, self.size, box, self.flips and flips[sample])

        longest = max(map(len, batches), default=0)
        samples = (sample for batch in batches for sample in batch)
        views = in_order(make, samples, self.workers, AHEAD * longest)
        for batch in batches:
            yield self._batch(list(islice(views, len(batch))))

    def evaluate(self, first: int, step: int, size: int) -> Iterator[Tensor]:
        numbers = range(len(self.split))[first::step]
        views = in_order(
            lambda number: evaluation_view(self.split.pixels(number), self.size),
            numbers,
            self.workers,
            AHEAD * size,
        )
        for start in range(0, len(numbers), size):
            yield self._batch(list(islice(views, min(size, len(numbers) - start))))

    def _batch(self, views: list[np.ndarray]) -> Tensor:
        return self.normalize(torch.from_numpy(np.stack(views)).to(self.device))

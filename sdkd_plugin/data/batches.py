"""Batches as functions of (seed, epoch, position).

They have no state, so any epoch can be had at any time, on any rank.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from sdkd_plugin.data.augment import epoch_table
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.negatives import NegativeSampler
from sdkd_plugin.data.views import StoredView, make_view
from sdkd_plugin.errors import UserError


@dataclass(frozen=True)
class Batch:
    """What one step of one rank trains on.

    Args:
        image: [N, 3, H, W] float32, augmented and normalised.
        target: [N] int64.
        index: [N] int64, positions in the training set.
        contrastive_index: [N, 1+K] int64: the own index, then K training images of other classes;
            None unless asked for.
        count: images in the batches of all ranks together.
        strong: [N, 3, H, W] float32, a second view of the same images, with a crop and a flip of
            its own and RandAugment; None unless DATASET.VIEWS is 2.
    """

    image: Tensor
    target: Tensor
    index: Tensor
    contrastive_index: Tensor | None
    count: int
    strong: Tensor | None = None


class TrainBatches:
    """Shuffled, augmented batches of the training split, which is kept on the device unless its
    images are resized anew each time or lie in a mapped file.

    Args:
        device: where batches are made.
        num_negatives: K of `Batch.contrastive_index`; 0 for none.
        rank, world_size: this process sees positions rank::world_size of each batch;
            SOLVER.BATCH_SIZE is global.
        seed: SOLVER.SEED if None.
        drop_last: leave out a last short batch.
    Raises:
        UserError: SOLVER.BATCH_SIZE above the number of training images, or a batch with fewer
            images than ranks.
    """

    def __init__(
        self,
        dataset: Dataset,
        cfg: CN,
        device: torch.device | str,
        num_negatives: int = 0,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = None,
        drop_last: bool = False,
    ):
        self.device = torch.device(device)
        self.count = len(dataset.train)
        self.batch_size: int = cfg.SOLVER.BATCH_SIZE
        self.rank = rank
        self.world_size = world_size
        self.seed: int = cfg.SOLVER.SEED if seed is None else seed
        self.drop_last = drop_last
        self._check_sizes()

        self.targets = dataset.train.targets.to(self.device)
        self.view = make_view(dataset, dataset.train, cfg, self.device)
        self.views: int = cfg.DATASET.VIEWS

        self.negatives: NegativeSampler | None = None
        if num_negatives:
            self.negatives = NegativeSampler(dataset, num_negatives, self.device)

    def __len__(self) -> int:
        """Batches per epoch."""
        if self.drop_last:
            return self.count // self.batch_size
        return -(-self.count // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yields this rank's batches of one epoch (1-based), each made when it is asked for."""
        table = epoch_table(self.count, self.view.padding, self.seed, epoch, self.device)
        everyone = table.order.split(self.batch_size)[: len(self)]  # all ranks' images
        indices = [positions[self.rank :: self.world_size] for positions in everyone]
        images = self.view.train(indices, table, self.seed, epoch)
        views = zip(indices, images, self._strong(indices, epoch), strict=True)
        for number, (index, image, strong) in enumerate(views):
            batch = Batch(image, self.targets[index], index, None, len(everyone[number]), strong)
            yield self.with_negatives(batch, epoch, number)

    def _strong(self, indices: Sequence[Tensor], epoch: int) -> Iterable[Tensor | None]:
        """The second view of each batch; None for each where there is one view."""
        if self.views == 1:
            return [None] * len(indices)
        assert isinstance(self.view, StoredView), "the config allows none else"
        draws = (self.count, self.view.padding, self.seed, epoch, self.device)
        return self.view.strong(indices, epoch_table(*draws, view="second view"), self.seed, epoch)

    def with_negatives(self, batch: Batch, epoch: int, number: int) -> Batch:
        """This rank's batch with the negatives that were asked for; the same where none were.

        Args:
            number: of the batch in its epoch, from 0.
        """
        if self.negatives is None:
            return batch
        draws = self.negatives.draw(batch.count, self.seed, epoch, number)
        own = draws[self.rank :: self.world_size]
        index = self.negatives.contrastive_index(batch.index, batch.target, own)
        return replace(batch, contrastive_index=index)

    def _check_sizes(self) -> None:
        if self.batch_size > self.count:
            raise UserError(
                f"SOLVER.BATCH_SIZE is {self.batch_size}; allowed: 1 to {self.count}, "
                "the number of training images"
            )

        smallest = self.batch_size
        if not self.drop_last:
            smallest = self.count % self.batch_size or self.batch_size
        if smallest < self.world_size:
            raise UserError(
                f"SOLVER.BATCH_SIZE {self.batch_size} leaves a batch of {smallest} of {self.count} "
                f"images for {self.world_size} processes; change SOLVER.BATCH_SIZE or "
                "DATASET.SUBSET, so that each gets one"
            )


class EvalBatches:
    """The evaluated split in order, normalised, in batches of DATASET.TEST.BATCH_SIZE.

    Yields (image [N, 3, H, W], target [N]).

    Args:
        device: where batches are made.
        rank, world_size: this process sees images rank::world_size.
    """

    def __init__(
        self,
        dataset: Dataset,
        cfg: CN,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.device = torch.device(device)
        self.share = rank, world_size
        self.targets = dataset.test.targets[rank::world_size].to(self.device)
        self.batch_size: int = cfg.DATASET.TEST.BATCH_SIZE
        self.view = make_view(dataset, dataset.test, cfg, self.device)

    def __len__(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images = self.view.evaluate(*self.share, self.batch_size)
        yield from zip(images, self.targets.split(self.batch_size), strict=True)

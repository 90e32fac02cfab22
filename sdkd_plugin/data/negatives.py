"""CRD's negatives: for each image of a batch, K training images of other classes."""

import numpy as np
import torch
from torch import Tensor

from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.errors import UserError
from sdkd_plugin.randomness import keyed_generator


class NegativeSampler:
    """Draws uniformly and with replacement from all training images of other classes.

    The training set is sorted by class once. With n_c images of class c starting at s_c in that
    order, a uniform u in [0, N - n_c) is moved past the own class: the negative stands at
    u + n_c [u >= s_c].

    Args:
        num_negatives: K, above 0; may exceed the number of training images.
    Raises:
        UserError: all training images are of one class.
    """

    def __init__(self, dataset: Dataset, num_negatives: int, device: torch.device):
        targets = dataset.train.targets
        counts = torch.bincount(targets, minlength=dataset.num_classes)
        if counts.max() == len(targets):
            name = dataset.classes[int(counts.argmax())]
            raise UserError(
                f"all {len(targets)} training images are of class {name!r}; "
                "negatives need a second: check DATASET.ROOT"
            )

        self.num_negatives = num_negatives
        self.device = device
        self.sorted = targets.argsort(stable=True).to(device)  # [N]
        self.counts = counts.to(device)  # [number of classes]
        self.starts = (counts.cumsum(0) - counts).to(device)  # [number of classes]

    def draw(self, batch_size: int, seed: int, epoch: int, batch: int) -> Tensor:
        """Raw random bits for one batch, [batch_size, K] int32 on the CPU.

        They depend on the arguments and K alone.

        Args:
            batch_size: of the whole batch, over all ranks.
            epoch, batch: 1-based epoch, 0-based batch of it.
        """
        generator = keyed_generator(seed, "negatives", epoch, batch)
        count = batch_size * self.num_negatives
        raw = generator.bit_generator.random_raw(-(-count // 2))  # 64 bits each
        bits = raw.view(np.int32)[:count]
        return torch.from_numpy(bits.reshape(batch_size, self.num_negatives))

    def contrastive_index(self, index: Tensor, target: Tensor, draws: Tensor) -> Tensor:
        """[N, 1+K] int64: each image's own index, then its negatives.

        Args:
            index, target: [N] positions in the training set and their classes.
            draws: [N, K] int32 from `draw`. Scaling 32 bits to N - n_c places favours none by more
                than N / 2**32.
        """
        count = self.counts[target][:, None]  # [N, 1]
        bits = draws.to(self.device).long().bitwise_and_(0xFFFFFFFF)
        place = bits.mul_(len(self.sorted) - count).bitwise_right_shift_(32).int()  # [N, K]
        place += (place >= self.starts[target][:, None].int()) * count.int()

        result = index.new_empty(len(index), 1 + self.num_negatives)
        result[:, 0] = index
        result[:, 1:] = self.sorted.index_select(0, place.view(-1)).view(place.shape)
        return result

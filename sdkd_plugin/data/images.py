"""One split's images and labels, in memory or in a mapped file."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdkd_plugin.data.pictures import Pictures

_HASH_CHUNK = 2**22  # bytes that hashing copies of a mapped file at once


@dataclass(frozen=True)
class Images:
    """One split.

    Args:
        images: [N, H, W, 3] uint8, or images of several sizes.
        targets: [N] int64, each in [0, number of classes).
        rows: [N] which of `images` these are, where they are a mapped file's, which is never
            copied; None: all.
    """

    images: Tensor | Pictures
    targets: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, pixels; None where they differ."""
        if isinstance(self.images, Pictures):
            return None
        return self.images.shape[1], self.images.shape[2]

    def take(self, positions: np.ndarray) -> "Images":
        """The images at these positions, in this order; itself where that is all as they are."""
        if np.array_equal(positions, np.arange(len(self))):
            return self
        chosen = torch.from_numpy(positions)
        targets = self.targets[chosen]
        if isinstance(self.images, Pictures):
            return Images(self.images.take(positions), targets)
        if self.rows is not None:
            return Images(self.images, targets, self.rows[chosen])
        return Images(self.images[chosen], targets)

    def select(self, index: Tensor) -> Tensor:
        """[n, H, W, 3]: images of one size, by their positions in this split."""
        assert isinstance(self.images, Tensor)
        rows = index if self.rows is None else self.rows[index]
        return self.images.index_select(0, rows)

    def pixels(self, number: int) -> np.ndarray:
        """[H, W, 3] uint8 of one image."""
        if isinstance(self.images, Pictures):
            return self.images.pixels(number)
        row = number if self.rows is None else int(self.rows[number])
        return self.images[row].numpy()


def content_hash(*splits: Images) -> str:
    """First 16 hex digits of the SHA-256 of all images and targets of these splits; images of
    several sizes count by their digests.
    """
    digest = hashlib.sha256()
    for split in splits:
        _hash_images(split, digest)
        digest.update(str(tuple(split.targets.shape)).encode())
        digest.update(split.targets.contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _hash_images(split: Images, digest: "hashlib._Hash") -> None:
    if isinstance(split.images, Pictures):
        digest.update(split.images.digests.tobytes())
        return
    digest.update(str((len(split), *split.images.shape[1:])).encode())
    if split.rows is None:
        digest.update(split.images.contiguous().numpy().data)
        return
    chunk = max(1, _HASH_CHUNK // max(1, split.images[0].numel()))
    for positions in torch.arange(len(split)).split(chunk):
        digest.update(split.select(positions).numpy().data)

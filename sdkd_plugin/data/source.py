"""What a kind of data gives: the images of a split, as they are stored."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdkd_plugin.data.pictures import DIGEST, Picture
from sdkd_plugin.errors import UserError


class Source(ABC):
    """The images of one split, as they are stored.

    Args:
        title: of the split, for progress bars, such as "train".
        targets: class numbers, one per image.
    """

    def __init__(self, title: str, targets: Sequence[int]):
        self.title = title
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def name(self, number: int) -> str:
        """What messages call an image."""

    @abstractmethod
    def stamp(self) -> str:
        """Text that differs whenever the images may, and is had without reading them."""

    @abstractmethod
    def read(self, number: int) -> Picture:
        """One image. Raises UserError, which names it, where it cannot be decoded."""

    def digest(self, number: int) -> bytes:
        """That of `read`."""
        return self.read(number).digest

    def require_targets(self, count: int, root: Path, origin: str) -> None:
        """Raises UserError where a target is `count` or more.

        Args:
            origin: of the count, for the message.
        """
        if max(self.targets) >= count:
            raise UserError(
                f"{self.title} images in {str(root)!r} have the class {max(self.targets)}; "
                f"allowed: 0 to {count - 1}, from {origin}"
            )


def pixel_digest(pixels: np.ndarray) -> bytes:
    """DIGEST bytes of what an image looks like: its size and every pixel."""
    content = hashlib.sha256(str(pixels.shape).encode())
    content.update(np.ascontiguousarray(pixels).data)
    return content.digest()[:DIGEST]

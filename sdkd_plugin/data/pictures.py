"""Images of several sizes: packed one after another, in memory or in a mapped file, or read anew
each time they are asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np


class Picture(NamedTuple):
    """One image as it was read.

    Args:
        pixels: [H, W, 3] uint8.
        digest: DIGEST bytes of what it was read from.
    """

    pixels: np.ndarray
    digest: bytes


DIGEST = 16  # bytes of a SHA-256 that tell images apart


class Pictures(ABC):
    """Images of a split, each of its own size."""

    @abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abstractmethod
    def pixels(self, number: int) -> np.ndarray:
        """[H, W, 3] uint8 of one of them."""

    @property
    @abstractmethod
    def digests(self) -> np.ndarray:
        """[N, DIGEST] uint8: each image by the bytes that it was read from."""

    @abstractmethod
    def take(self, positions: np.ndarray) -> "Pictures":
        """Those at these positions, in this order; no pixel is copied."""


class Packed(Pictures):
    """Decoded images in one buffer.

    Args:
        buffer: [bytes] uint8, in memory or mapped from a file.
        starts: [N] int64, where each image begins in it.
        sizes: [N, 2] int64, height and width.
        digests: [N, DIGEST] uint8.
    """

    def __init__(
        self, buffer: np.ndarray, starts: np.ndarray, sizes: np.ndarray, digests: np.ndarray
    ):
        self.buffer = buffer
        self.starts = starts
        self.sizes = sizes
        self._digests = digests

    def __len__(self) -> int:
        return len(self.starts)

    def pixels(self, number: int) -> np.ndarray:
        height, width = self.sizes[number]
        start = self.starts[number]
        return self.buffer[start : start + 3 * height * width].reshape(height, width, 3)

    @property
    def digests(self) -> np.ndarray:
        return self._digests

    def take(self, positions: np.ndarray) -> "Packed":
        return Packed(
            self.buffer, self.starts[positions], self.sizes[positions], self._digests[positions]
        )


class Unread(Pictures):
    """Images that are decoded each time: nothing of them stays in memory.

    Args:
        read: number -> [H, W, 3] uint8.
        digest_all: the digests of every number, [M, DIGEST] uint8; called when somebody asks.
        numbers: [N], what each image is called by `read`.
    """

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        digest_all: Callable[[], np.ndarray],
        numbers: np.ndarray,
    ):
        self._read = read
        self._digest_all = digest_all
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def pixels(self, number: int) -> np.ndarray:
        return self._read(int(self.numbers[number]))

    @cached_property
    def digests(self) -> np.ndarray:  # type: ignore[override]
        return self._digest_all()[self.numbers]

    def take(self, positions: np.ndarray) -> "Unread":
        return Unread(self._read, self._digest_all, self.numbers[positions])

"""What a kind of data gives: the images of a split, as they are stored."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sdkd_plugin.data.decode import decode
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


class EncodedSource(Source):
    """Images that are stored as the contents of image files, wherever these lie."""

    @abstractmethod
    def content(self, number: int) -> bytes:
        """The bytes of one image's file. Raises UserError where there are none."""

    def read(self, number: int) -> Picture:
        content = self.content(number)
        return Picture(decode(content, self.name(number)), content_digest(content))

    def digest(self, number: int) -> bytes:
        return content_digest(self.content(number))


def first_files(
    root: Path, names: Sequence[str], patterns: Sequence[str], expected: str
) -> list[Path]:
    """The files of the first name that has any, in the order of their names.

    Args:
        patterns: as of `Path.glob`, one after another; {} stands for the name.
        expected: what `root` must hold, for the message.
    Raises:
        UserError: there are none.
    """
    if not root.is_dir():
        raise UserError(f"folder {str(root)!r} is missing; {expected}")
    for name in names:
        for pattern in patterns:
            if files := sorted(root.glob(pattern.format(name))):
                return files
    wanted = " and no ".join(patterns[0].format(name) for name in names)
    raise UserError(f"{str(root)!r} has no {wanted}; {expected}")


def content_digest(content: bytes) -> bytes:
    """DIGEST bytes of a file's content."""
    return hashlib.sha256(content).digest()[:DIGEST]


def pixel_digest(pixels: np.ndarray) -> bytes:
    """DIGEST bytes of what an image looks like: its size and every pixel."""
    content = hashlib.sha256(str(pixels.shape).encode())
    content.update(np.ascontiguousarray(pixels).data)
    return content.digest()[:DIGEST]


def file_stamps(files: list[Path]) -> Iterator[str]:
    """Each file by its name below what all share, so that the folder may move, its size and time of
    change.
    """
    names = [str(file) for file in files]
    shared = len(os.path.commonprefix([min(names), max(names)]))
    for name in names:
        try:
            state = os.stat(name)
        except OSError as error:
            raise UserError(f"image {name!r} cannot be read: {error.strerror}") from error
        yield f"{name[shared:]} {state.st_size} {state.st_mtime_ns}"

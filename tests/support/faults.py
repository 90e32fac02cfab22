"""Faults on purpose, and what they leave behind."""

from collections.abc import Callable
from pathlib import Path


def raising(error: BaseException) -> Callable:
    """A function that raises `error`, whatever it is given."""

    def fail(*arguments, **options):
        raise error

    return fail


def names(folder: Path) -> list[str]:
    """The names of what lies in `folder`, sorted."""
    return sorted(path.name for path in folder.iterdir())

"""Checkpoints of a run: saved atomically, and the one before is kept in case the newest is
damaged.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sdkd_plugin import weights
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import write_atomic


def save(state: dict[str, Any], path: Path, keep_previous: bool = False) -> None:
    """Saves a checkpoint atomically, with its digest beside its entries; with `keep_previous` the
    file it replaces stays, see `load_newest`.
    """
    signed = {**state, weights.DIGEST: weights.digest(state)}
    write_atomic(
        path, lambda file: torch.save(signed, file), _previous(path) if keep_previous else None
    )


def load_newest(path: Path, check: Callable[[dict[str, Any], Path], None]) -> dict[str, Any] | None:
    """Loads `path`, or the file it replaced if `path` is missing or damaged; None if there is
    neither.

    The file that is loaded then stands at `path`, so that the next save keeps it and not a damaged
    one.

    Args:
        path: a checkpoint saved with `keep_previous`.
        check: raises UserError for a readable checkpoint that is not the wanted one.
    Raises:
        UserError: there are files but none is good; the fault of each is told.
    """
    failures = []
    for candidate in (path, _previous(path)):
        if candidate.exists():
            try:
                state = weights.load(candidate)
                check(state, candidate)
            except UserError as error:
                failures.append(error)
            else:
                for failure in failures:
                    warnings.warn(f"{failure}; going back to {candidate}", stacklevel=2)
                os.replace(candidate, path)
                return state

    if failures:
        raise UserError("; ".join(map(str, failures)))
    return None


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")

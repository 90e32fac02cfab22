"""How many threads a run computes with: sums are split between them, so the bits depend on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sdkd_plugin.errors import UserError


def choose_threads(asked: int, begun: int | None) -> int:
    """The thread count of a run: the one it began with; a run that begins has what is asked.

    Args:
        asked: SOLVER.THREADS; 0 for torch's own choice, which OMP_NUM_THREADS decides.
        begun: what the run recorded when it began; None if it begins now, or recorded none.
    Raises:
        UserError: another count is asked for than the run began with.
    """
    if begun is None:
        return asked or torch.get_num_threads()
    if asked not in (0, begun):
        raise UserError(
            f"SOLVER.THREADS is {asked}, but the run began with {begun} threads, and its bits "
            f"depend on it; allowed: {begun}, or 0 to keep it"
        )
    return begun


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside the block torch computes with `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

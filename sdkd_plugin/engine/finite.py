"""Watches that losses stay finite, without a step that waits for the device."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sdkd_plugin.errors import UserError

EVERY = 50  # steps between two looks, where a look waits for the device
EVERY_ON_CPU = 1
REMEDY = "lower SOLVER.LR or the term's weight (the last saved epoch is intact)"


class FiniteWatch:
    """Notes on the device the first step with a loss that is not finite, and its terms then.

    On the CPU, where a look costs nothing, a step is refused before it changes a weight; elsewhere
    the next look refuses the epoch, of which nothing is saved.

    Args:
        device: where the losses are.
        epoch, remedy: for the message.
    """

    def __init__(self, device: torch.device, epoch: int, remedy: str = REMEDY):
        self._epoch = epoch
        self._remedy = remedy
        self._every = EVERY_ON_CPU if device.type == "cpu" else EVERY
        self._step = torch.zeros((), dtype=torch.long, device=device)  # 0: none yet
        self._names: list[str] = []
        self._terms = torch.zeros(0, device=device)  # [T] of that step

    def note(self, step: int, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Takes in a step before it changes a weight.

        Args:
            step: from 1, in the epoch.
            loss: scalar, detached; it must be finite.
            terms: scalars, detached: its parts, and what is only named with them.
        Raises:
            UserError: see `look`, at every step that is due.
        """
        if list(terms) != self._names:
            self.look()
            self._names = list(terms)
            self._terms = self._terms.new_zeros(len(terms))

        first = (self._step == 0) & ~torch.isfinite(loss)
        values = torch.stack([value.float() for value in terms.values()])  # [T]
        self._terms = torch.where(first, values, self._terms)
        self._step = torch.where(first, step, self._step)
        if step % self._every == 0:
            self.look()

    def look(self) -> None:
        """Reads what was noted.

        Raises:
            UserError: a loss was not finite; names the step and the terms.
        """
        step = int(self._step)
        if not step:
            return
        values = self._terms.tolist()
        finite = torch.isfinite(self._terms).tolist()
        pairs = zip(self._names, values, finite, strict=True)
        bad = [f"{name} = {value}" for name, value, good in pairs if not good]
        raise UserError(
            f"loss is not finite at epoch {self._epoch}, step {step}: "
            f"{', '.join(bad) or 'the sum of its terms'}; {self._remedy}"
        )

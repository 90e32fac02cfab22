"""The processes that train one run together; one alone needs none of what they exchange.

Each takes its share of every batch. What all of them compute is the sum of what each computes on
its share, so that a step is that of one process on the whole batch, but for batch norms, which see
the share.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin.config import whole_batch_reason
from sdkd_plugin.errors import UserError

Value = TypeVar("Value")


class Ranks:
    """What the processes of a run exchange.

    Every method but the attributes is called by all of them, at the same place; one that is left
    alone at it, since another has ended, raises UserError.

    Attributes:
        rank: of this process, from 0; 0 is the one that writes.
        size: how many there are.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.size: int = accelerator.num_processes

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """The sum of what each process has; of any shape, the same in all."""
        if self.size == 1:
            return value
        return self._together(lambda: self._accelerator.reduce(value, reduction="sum"))

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Makes each gradient the sum of the processes' own."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        _replace(gradients, self.total(_flat(gradients)))

    def average(self, buffers: Iterable[Tensor]) -> None:
        """Makes each floating buffer, such as a batch norm's statistics, the processes' mean."""
        if self.size == 1:
            return
        floating = [buffer for buffer in buffers if buffer.is_floating_point()]
        if floating:
            _replace(floating, self.total(_flat(floating)) / self.size)

    def agree(self, find: Callable[[], Value]) -> Value:
        """What the writing process finds; the others wait for it.

        Raises:
            UserError: what `find` raised there, in every process.
        """
        if self.size == 1:
            return find()
        found: list[Any] = [None, None]
        if self.writes:
            try:
                found[0] = find()
            except (UserError, OSError) as error:
                found[1] = error
        self._together(lambda: broadcast_object_list(found))
        if found[1] is not None:
            raise found[1]
        return found[0]

    def wait(self) -> None:
        """Waits until every process is here."""
        self.total(torch.zeros((), device=self._accelerator.device))

    def _together(self, exchange: Callable[[], Value]) -> Value:
        try:
            return exchange()
        except RuntimeError as error:  # whatever the backend says of a lost connection
            raise UserError(
                f"process {self.rank} of {self.size} lost the others: one of them has ended "
                f"({' '.join(str(error).split())[:120]}); start all again with --resume"
            ) from error


def check_shareable(cfg: CN, processes: int) -> None:
    """Raises UserError where a run of several processes has a method that needs whole batches."""
    reason = whole_batch_reason(cfg)
    if processes > 1 and reason:
        raise UserError(
            f"{reason} relates the images of a batch or remembers them, but the run was started as "
            f"{processes} processes, which share each batch; allowed with it: 1 process"
        )


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])


def _replace(tensors: Sequence[Tensor], flat: Tensor) -> None:
    """Writes the parts of what `_flat` made back into the tensors."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

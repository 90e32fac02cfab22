"""An epoch that is being trained: where it stands and what its steps gave so far."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sdkd_plugin.data.batches import Batch
from sdkd_plugin.distillers.base import Phase, add_up
from sdkd_plugin.engine.evaluate import correct_within
from sdkd_plugin.engine.finite import FiniteWatch
from sdkd_plugin.engine.first_steps import StepRecord
from sdkd_plugin.engine.ranks import Ranks
from sdkd_plugin.randomness import TorchStream


class RunningEpoch:
    """One epoch of a phase between its first step and its last.

    Args:
        epoch: 1-based within the phase.
        stream: what the method draws from in its steps.
        validation: a batch of held-out images for each step, or None for each.
        device: where the totals are kept, so that no step waits for them.
        ranks: who trains it.
    """

    def __init__(
        self,
        phase: Phase,
        epoch: int,
        stream: TorchStream,
        validation: Iterator[Batch | None],
        device: torch.device,
        ranks: Ranks,
    ):
        self.phase = phase
        self.epoch = epoch
        self.stream = stream
        self.validation = validation
        self.finite = FiniteWatch(device, epoch)
        self.first_steps: list[StepRecord] = []  # of the run's very first epoch alone
        self._ranks = ranks
        self.steps = 0
        self.images = 0
        self._totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=device))

    def add(
        self,
        batch: Batch,
        logits: Tensor,
        losses: Mapping[str, Tensor],
        terms: Mapping[str, Tensor],
    ) -> None:
        """Takes in a step before it changes a weight.

        Args:
            logits: the student's, [N, K].
            losses: weighted scalars.
            terms: scalars that are only shown.
        Raises:
            UserError: see `FiniteWatch.note`.
        """
        values = {name: value.detach() for name, value in {**losses, **terms}.items()}
        correct = correct_within(logits.detach(), batch.target, 1)
        if self._ranks.size > 1:
            values, correct = self._of_all(batch, values, correct)
        loss = add_up(values[name] for name in losses)
        self.steps += 1
        self.finite.note(self.steps, loss, values)

        n = batch.count
        self.images += n
        self._totals["train_loss"] += n * loss
        self._totals["train_top1"] += 100 * correct
        for name, value in values.items():
            self._totals[name] += n * value

    def _of_all(
        self, batch: Batch, values: Mapping[str, Tensor], correct: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The same over the batches of all ranks: one exchange, of a few numbers."""
        share = len(batch.target) / batch.count
        own = [share * value.float() for value in values.values()]
        *means, correct = self._ranks.total(torch.stack([*own, correct.float()])).unbind()
        return dict(zip(values, means, strict=True)), correct

    def means(self, *names: str) -> dict[str, float]:
        """Per image, over the steps so far; of all totals unless some are named."""
        return {name: self._totals[name].item() / self.images for name in names or self._totals}

    def row(self, lr: float, seconds: float, group_size: int) -> dict[str, float]:
        """The epoch's part of the history.

        Args:
            lr: its learning rate.
            seconds: its training took.
            group_size: how many runs were trained together; 1 for a run alone.
        """
        processes = {"processes": self._ranks.size} if self._ranks.size > 1 else {}
        return {
            "lr": lr,
            **self.means(),
            "train_seconds": seconds,
            "images_per_second": self.images / seconds,
            "group_size": group_size,
            **processes,
        }

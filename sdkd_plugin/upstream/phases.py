"""An entry for mdistiller's `trainer_dict` that trains a method's phases one after the other."""

import os
from typing import Any

import torch

from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.errors import UserError

TRAINER = "phases"  # its name in trainer_dict, for SOLVER.TRAINER


def phased_trainer(base: type, average_meter: type) -> type:
    """A subclass of mdistiller's BaseTrainer: the last phase is its own training, the phases before
    it come first.

    These have a constant learning rate and are neither scored, logged nor saved: a run that is
    interrupted in one starts over.
    """

    class PhasedTrainer(base):
        def train(self, resume: bool = False) -> None:
            *first, last = self.distiller.module.phases(self.cfg)
            saved = resume and os.path.exists(os.path.join(self.log_path, "latest"))
            for phase in () if saved else first:
                self.enter(phase, begin=True)
                for epoch in range(1, phase.epochs + 1):
                    self.train_first(phase, epoch)
            self.enter(last, begin=not saved)
            super().train(saved)

        def enter(self, phase: Phase, begin: bool) -> None:
            """Hands the phase's parameters to an optimiser of their own; `begin` is False when
            resuming inside it.
            """
            groups = self.distiller.module.enter(phase, begin)
            if any(group["lr_factor"] != 1.0 for group in groups):
                raise UserError(
                    f"phase {phase.name!r} has learning rates of its own, which mdistiller "
                    "overwrites with one for all"
                )
            parameters = [p for group in groups for p in group["params"]]
            solver = self.cfg.SOLVER
            lr = solver.LR if phase.lr is None else phase.lr
            self.optimizer = torch.optim.SGD(
                parameters, lr=lr, momentum=solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY
            )

        def train_first(self, phase: Phase, epoch: int) -> None:
            """One epoch of a phase before the last, by mdistiller's own step."""
            names = ("training_time", "data_time", "losses", "top1", "top5")
            meters: dict[str, Any] = {name: average_meter() for name in names}
            self.distiller.train()
            for batch in self.train_loader:
                self.train_iter(batch, epoch, meters)
            print(
                f"phase {phase.name}, epoch {epoch} of {phase.epochs}: loss "
                f"{meters['losses'].avg:.4f}"
            )

    return PhasedTrainer

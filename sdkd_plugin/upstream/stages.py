"""An entry for mdistiller's `trainer_dict` that trains a method's stages one after the other."""

import os
from typing import Any

import torch

from sdkd_plugin.distillers.base import Stage
from sdkd_plugin.errors import UserError

TRAINER = "stages"  # its name in trainer_dict, for SOLVER.TRAINER


def staged_trainer(base: type, average_meter: type) -> type:
    """A subclass of mdistiller's BaseTrainer: the last stage is its own training, the stages before it come first.

    These have a constant learning rate and are neither scored, logged nor saved: a run that is interrupted in one starts over.
    """

    class StagedTrainer(base):
        def train(self, resume: bool = False) -> None:
            *first, last = self.distiller.module.stages(self.cfg)
            saved = resume and os.path.exists(os.path.join(self.log_path, "latest"))
            for stage in () if saved else first:
                self.enter(stage, begin=True)
                for epoch in range(1, stage.epochs + 1):
                    self.train_first(stage, epoch)
            self.enter(last, begin=not saved)
            super().train(saved)

        def enter(self, stage: Stage, begin: bool) -> None:
            """Hands the stage's parameters to an optimiser of their own; `begin` is False when resuming inside it."""
            method, solver = self.distiller.module, self.cfg.SOLVER
            method.stage = stage
            if begin:
                method.begin_stage(stage)
            groups = method.get_parameter_groups(stage)
            if any(group.get("lr_factor", 1.0) != 1.0 for group in groups):
                raise UserError(
                    f"stage {stage.name!r} has learning rates of its own, which mdistiller overwrites with one for all"
                )
            parameters = [p for group in groups for p in group["params"]]
            method.requires_grad_(False)
            for parameter in parameters:
                parameter.requires_grad_(True)
            lr = solver.LR if stage.lr is None else stage.lr
            self.optimizer = torch.optim.SGD(parameters, lr=lr, momentum=solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY)

        def train_first(self, stage: Stage, epoch: int) -> None:
            """One epoch of a stage before the last, by mdistiller's own step."""
            names = ("training_time", "data_time", "losses", "top1", "top5")
            meters: dict[str, Any] = {name: average_meter() for name in names}
            self.distiller.train()
            for batch in self.train_loader:
                self.train_iter(batch, epoch, meters)
            print(f"stage {stage.name}, epoch {epoch} of {stage.epochs}: loss {meters['losses'].avg:.4f}")

    return StagedTrainer

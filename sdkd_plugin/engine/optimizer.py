"""The optimiser of a phase, and the gradients that it takes: of the sum of all losses, or with DOT
of loss_ce and loss_kd apart.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer
from yacs.config import CfgNode as CN

from sdkd_plugin.config import splits_gradients
from sdkd_plugin.distillers.base import Distiller, add_up
from sdkd_plugin.engine.dot import DOT, KD, TASK
from sdkd_plugin.engine.ranks import Ranks
from sdkd_plugin.errors import UserError


def make_optimizer(groups: list[dict[str, Any]], solver: CN) -> Optimizer:
    """SOLVER's optimiser over a method's parameter groups."""
    settings = optimizer_settings(solver)
    if splits_gradients(solver):
        return DOT(groups, lr=solver.LR, **settings)
    # Plain SGD as in mdistiller; the fused kernel does the same arithmetic in one pass.
    return torch.optim.SGD(groups, lr=solver.LR, fused=True, **settings)


def optimizer_settings(solver: CN) -> dict[str, Any]:
    """What stays the same from the first epoch to the last."""
    settings = {"momentum": solver.MOMENTUM, "weight_decay": solver.WEIGHT_DECAY}
    if splits_gradients(solver):
        settings["momentum"] = solver.MOMENTUM - solver.DOT.DELTA
        settings["momentum_kd"] = solver.MOMENTUM + solver.DOT.DELTA
    return settings


def buffer_names(solver: CN) -> tuple[str, ...]:
    """What the optimiser keeps of each parameter, at most."""
    return (TASK, KD) if splits_gradients(solver) else (TASK,)


def leave_gradients(
    losses: Mapping[str, Tensor],
    share: float,
    accelerator: Accelerator,
    ranks: Ranks,
    method: Distiller,
    hold_kd: Callable[[], None] | None,
) -> None:
    """Leaves a step's gradients where its optimiser takes them.

    Args:
        losses: weighted, by name.
        share: of several processes, this one's part of the batch's images.
        hold_kd: DOT's; None for an optimiser of one gradient.
    Raises:
        UserError: DOT, and the losses are not loss_ce and loss_kd.
    """

    def leave(loss: Tensor, last: bool = True) -> None:
        if ranks.size > 1:  # means over this share become parts of the mean over the batch
            loss = loss * share
        accelerator.backward(loss, retain_graph=not last)
        ranks.add_gradients(method.parameters())

    if hold_kd is None:
        leave(add_up(losses.values()))
        return

    if losses.keys() != {"loss_ce", "loss_kd"}:
        phase = f"in its phase {method.phase.name!r} " if method.phase else ""
        raise UserError(
            "SOLVER.OPTIMIZER is 'dot', which keeps loss_ce and loss_kd apart, but "
            f"{type(method).__name__} {phase}has {', '.join(sorted(losses))}; allowed for it: sgd"
        )
    leave(losses["loss_kd"], last=False)
    hold_kd()
    leave(losses["loss_ce"])

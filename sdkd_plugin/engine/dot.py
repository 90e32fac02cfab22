"""DOT: SGD with a momentum buffer for the task's gradient and another for the distillation's (Zhao,
Cui, Song, Liang: DOT: A Distillation-Oriented Trainer, ICCV 2023, arXiv 2307.08436).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.sgd import sgd

TASK = "momentum_buffer"  # as torch's SGD calls its own
KD = "momentum_kd_buffer"


class DOT(Optimizer):
    """u <- momentum u + g_task + weight_decay w;  v <- momentum_kd v + g_kd;  w <- w - lr (u + v).

    Both buffers begin with their first gradient. A weight that only one of the two losses reaches
    in a step has one buffer then, which takes the weight decay and the mean of the two momenta.

        optimizer.zero_grad(set_to_none=True)
        loss_kd.backward(retain_graph=True)
        optimizer.hold_kd()
        loss_task.backward()
        optimizer.step()

    Args:
        params: parameters, or groups of them; a group may have settings of its own.
        lr: learning rate.
        momentum: of the task's gradient, from 0 to 1.
        momentum_kd: of the distillation's, from 0 to 1.
        weight_decay: 0 or more.
    Source: arXiv 2307.08436, algorithm 1; what one loss alone reaches as in mdistiller a08d46f.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float,
        momentum_kd: float,
        weight_decay: float,
    ):
        settings = {
            "lr": lr,
            "momentum": momentum,
            "momentum_kd": momentum_kd,
            "weight_decay": weight_decay,
        }
        super().__init__(params, settings)
        self._held: dict[Tensor, Tensor] = {}

    def hold_kd(self) -> None:
        """Takes the distillation's gradients off the parameters and keeps them for `step`."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        self._held = {p: p.grad for p in parameters if p.grad is not None}
        self.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Moves the parameters; what stands in them as gradient is the task's.

        Args:
            closure: None; it is there because callers of optimisers hand it on.
        """
        assert closure is None, "DOT takes two gradients, which one closure cannot give"
        for group in self.param_groups:
            tasks = {p: p.grad for p in group["params"] if p.grad is not None}
            held = {p: self._held[p] for p in group["params"] if p in self._held}
            self._descend(group, TASK, group["momentum"], tasks, held.keys())
            self._descend(group, KD, group["momentum_kd"], held, tasks.keys())
        self._held = {}

    def _descend(
        self,
        group: dict[str, Any],
        name: str,
        momentum: float,
        gradients: dict[Tensor, Tensor],
        others: Iterable[Tensor],
    ) -> None:
        """One step of SGD along the gradients of one loss, with its buffers.

        Args:
            name: of the buffers.
            others: what the other loss reaches.
        """
        shared = set(others)
        mean = (group["momentum"] + group["momentum_kd"]) / 2
        alike: dict[tuple[bool, bool], list[Tensor]] = defaultdict(list)
        for p in gradients:
            alike[p in shared, name in self.state.get(p, {})].append(p)

        for (both, _), parameters in alike.items():
            buffers: list[Tensor | None] = [self.state.get(p, {}).get(name) for p in parameters]
            sgd(
                parameters,
                [gradients[p] for p in parameters],
                buffers,
                fused=True,
                # DIFF 1: from the first step on, whichever loss it is
                weight_decay=group["weight_decay"] if name == TASK or not both else 0.0,
                momentum=momentum if both else mean,
                lr=group["lr"],
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            for p, buffer in zip(parameters, buffers, strict=True):
                if buffer is not None:  # none where the momentum is 0
                    self.state[p][name] = buffer

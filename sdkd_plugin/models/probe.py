"""Measures a model's shapes by running it, without leaving a trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is in eval mode; afterwards each module has its own mode back.

    Eval mode matters to a probe: in train mode its image would move the batch norms' running
    statistics, a frozen teacher's too.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()

    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def probe(model: nn.Module, size: int | None = None) -> tuple[Tensor, dict[str, Any]]:
    """Runs the model on one black image in eval mode.

    Args:
        model: returns (logits, feats).
        size: image height and width in pixels; None: 32, which fits every model of the zoo, or
            what the model says as `probe_size`.
    Returns:
        what the model returns, logits [1, K] and its feats.
    """
    weight = next(model.parameters())
    side = size or cast(int, getattr(model, "probe_size", 32))
    black = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
    with eval_mode(model):
        return model(black)


def pooled_dim(model: nn.Module) -> int:
    """Length D of the model's pooled feature vector [N, D]; the image size does not change it."""
    _, feats = probe(model)
    return feats["pooled_feat"].shape[1]

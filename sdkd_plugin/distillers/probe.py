"""Measures a model's shapes by running it, without leaving a trace in it."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def probe(model: nn.Module, size: int = 32) -> tuple[Tensor, dict]:
    """Runs the model on one black image in eval mode and puts every module's train/eval mode back.

    Eval mode matters: in train mode the image would move the batch norms' running statistics, a frozen teacher's too.

    Args:
        model: returns (logits, feats).
        size: image height and width in pixels; 32 fits every model of the zoo.
    Returns:
        what the model returns: logits [1, K] and its feats.
    """
    modes = [(module, module.training) for module in model.modules()]
    weight = next(model.parameters())
    model.eval()
    try:
        return model(torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype))
    finally:
        for module, mode in modes:
            module.training = mode


def pooled_dim(model: nn.Module) -> int:
    """Length D of the model's pooled feature vector [N, D]; the image size does not change it."""
    return probe(model)[1]["pooled_feat"].shape[1]

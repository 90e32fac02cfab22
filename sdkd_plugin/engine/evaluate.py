"""Accuracy of a network on a split, in float32, always on every image."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """top1 and top5 in percent, loss as mean cross entropy in nats."""

    top1: float
    top5: float
    loss: float

    def __str__(self) -> str:
        return f"top-1 {self.top1:.2f}, top-5 {self.top5:.2f}, loss {self.loss:.4f}"


def correct_within(logits: Tensor, target: Tensor, k: int) -> Tensor:
    """How many samples have their class among the k largest logits. logits [N, K], target [N];
    scalar count.
    """
    k = min(k, logits.shape[1])
    return (logits.topk(k, dim=1).indices == target[:, None]).any(dim=1).sum()


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> Score:
    """Scores `predict` (image [N, 3, H, W] to logits [N, K]) over (image, target) batches.

    The caller puts the network into eval mode. Sums are kept in float64, so the result does not
    depend on the batch size beyond the network's own rounding.
    """
    count, totals = 0, torch.zeros(3, dtype=torch.float64)
    for image, target in batches:
        logits = predict(image).float()
        loss = F.cross_entropy(logits, target, reduction="sum")
        totals += (
            torch.stack(
                [correct_within(logits, target, 1), correct_within(logits, target, 5), loss]
            )
            .double()
            .cpu()
        )
        count += len(target)
    top1, top5, loss = (totals / count).tolist()
    return Score(100 * top1, 100 * top5, loss)

"""How good a network is on a split: evaluators, each of which yields metrics by name.

In float32, always on every image. A new metric is one evaluator here: the loop, the record and the
table carry whatever the evaluators yield.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sdkd_plugin.runs.record import ACCURACIES, Metric

BINS = 15  # of the calibration error, as in the paper and most after it


class Evaluator:
    """Sees every batch of a split once and then yields (name, value) for each of its `metrics`.

    Sums are kept in float64, so the values do not depend on the batch size beyond the network's
    own rounding, and on the device, so that no batch waits for it.
    """

    metrics: Mapping[str, Metric]
    sums: Tensor  # over the images seen; of all processes, those of each are added

    def add(self, logits: Tensor, target: Tensor) -> None:
        """Takes a batch in: logits [N, K] float32, target [N] int64."""
        raise NotImplementedError

    def values(self, count: int) -> Iterator[tuple[str, float]]:
        """The metrics over all `count` images seen."""
        raise NotImplementedError


class Accuracy(Evaluator):
    """Share of the images whose class has the largest logit, and one of the five largest."""

    metrics = ACCURACIES

    def __init__(self) -> None:
        self.sums = torch.zeros((), dtype=torch.float64)  # [2] once there is a batch

    def add(self, logits: Tensor, target: Tensor) -> None:
        counts = [correct_within(logits, target, k) for k in (1, 5)]
        self.sums = self.sums + torch.stack(counts).double()

    def values(self, count: int) -> Iterator[tuple[str, float]]:
        shares = 100 * (self.sums / count)
        yield from zip(self.metrics, shares.tolist(), strict=True)


class CrossEntropy(Evaluator):
    """Mean cross entropy with the labels, in nats."""

    metrics = {"loss": Metric("loss", "Cross entropy", "nats", "lower", decimals=4)}

    def __init__(self) -> None:
        self.sums = torch.zeros((), dtype=torch.float64)

    def add(self, logits: Tensor, target: Tensor) -> None:
        self.sums = self.sums + F.cross_entropy(logits, target, reduction="sum").double()

    def values(self, count: int) -> Iterator[tuple[str, float]]:
        yield "loss", self.sums.item() / count


class Calibration(Evaluator):
    """Expected calibration error: sum over bins b of n_b / N |accuracy_b - confidence_b|.

    An image's confidence is its largest softmax probability; BINS bins of equal width cut (0, 1].
    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3.
    """

    metrics = {"ece": Metric("ECE", "Expected calibration error", "%", "lower")}

    def __init__(self) -> None:
        # correct images minus the sum of confidences; [BINS] once there is a batch
        self.sums = torch.zeros((), dtype=torch.float64)

    def add(self, logits: Tensor, target: Tensor) -> None:
        confidence, predicted = logits.double().softmax(1).max(1)  # [N] each
        # bin b holds confidences in (b / BINS, (b + 1) / BINS]
        place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        excess = (predicted == target).double() - confidence
        self.sums = self.sums + excess.new_zeros(BINS).index_add(0, place, excess)

    def values(self, count: int) -> Iterator[tuple[str, float]]:
        yield "ece", 100 * self.sums.abs().sum().item() / count


EVALUATORS: tuple[type[Evaluator], ...] = (Accuracy, CrossEntropy, Calibration)
METRICS = {name: metric for each in EVALUATORS for name, metric in each.metrics.items()}


def correct_within(logits: Tensor, target: Tensor, k: int) -> Tensor:
    """How many samples have their class among the k largest logits.

    Args:
        logits: [N, K].
        target: [N].
    Returns:
        scalar count.
    """
    k = min(k, logits.shape[1])
    return (logits.topk(k, dim=1).indices == target[:, None]).any(dim=1).sum()


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> dict[str, float]:
    """Every evaluator's metrics of `predict` (image [N, 3, H, W] to logits [N, K]) over batches.

    The caller puts the network into eval mode.

    Args:
        total: adds up what several processes, each with batches of its own, have seen.
    """
    evaluators = [build() for build in EVALUATORS]
    count = 0
    for image, target in batches:
        logits = predict(image).float()
        for evaluator in evaluators:
            evaluator.add(logits, target)
        count += len(target)
    for evaluator in evaluators:
        evaluator.sums = total(evaluator.sums)
    seen = int(total(torch.tensor(count, device=evaluators[0].sums.device)))
    return {name: value for each in evaluators for name, value in each.values(seen)}


def describe(scores: Mapping[str, float]) -> str:
    """The scores in one line: "top-1 43.10, top-5 74.02, loss 2.1873, ECE 5.41"."""
    return ", ".join(f"{METRICS[name].label} {METRICS[name].show(scores[name])}" for name in scores)

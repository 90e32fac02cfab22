"""Accuracy against counting by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdkd_plugin.engine.evaluate import Score, correct_within, evaluate


def score(logits: Tensor, target: list[int], batch_size: int) -> Score:
    """Scores fixed logits: the "images" are the logits themselves."""
    return evaluate(
        lambda image: image,
        zip(logits.split(batch_size), torch.tensor(target).split(batch_size), strict=True),
    )


def test_by_hand():
    logits = torch.tensor(
        [
            [9.0, 1, 2, 3, 4, 5, 6],  # target 0: first
            [9.0, 1, 2, 3, 4, 5, 6],  # target 3: fifth (9 6 5 4 3)
            [9.0, 1, 2, 3, 4, 5, 6],  # target 2: sixth
            [0.0, 0, 0, 0, 0, 0, 7],  # target 6: first
        ]
    )
    found = score(logits, [0, 3, 2, 6], 2)
    assert (found.top1, found.top5) == (50.0, 75.0)
    log_sum = math.log(math.fsum(math.exp(z) for z in (9, 1, 2, 3, 4, 5, 6)))
    losses = [log_sum - 9, log_sum - 3, log_sum - 2, math.log(6 + math.exp(7)) - 7]
    assert found.loss == pytest.approx(math.fsum(losses) / 4, rel=1e-6)
    assert str(found) == f"top-1 50.00, top-5 75.00, loss {found.loss:.4f}"


def test_with_fewer_than_five_classes_every_image_is_within_five():
    found = score(torch.tensor([[1.0, 2.0, 3.0]] * 3), [0, 1, 2], 3)
    assert found.top1 == pytest.approx(100 / 3) and found.top5 == 100.0


def test_correct_within_counts_ranks():
    logits = torch.tensor([[3.0, 2.0, 1.0]] * 3)
    assert [int(correct_within(logits, torch.tensor([0, 1, 2]), k)) for k in (1, 2, 3, 9)] == [
        1,
        2,
        3,
        3,
    ]


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 40), st.integers(1, 50))
def test_every_image_counts_once_whatever_the_batch_size(count, batch_size):
    """The last batch is short for most sizes; averaging batch means would weigh its images more."""
    generator = torch.Generator().manual_seed(count)
    logits, target = (
        torch.randn(count, 7, generator=generator),
        torch.randint(7, (count,), generator=generator),
    )
    whole, parts = score(logits, target.tolist(), count), score(logits, target.tolist(), batch_size)
    assert (parts.top1, parts.top5) == (whole.top1, whole.top5)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert whole.top1 == pytest.approx(100 * (logits.argmax(1) == target).double().mean().item())


def test_half_precision_logits_are_scored_in_float32():
    logits = torch.tensor([[1.0, 0.0]]).half()  # float16 would round the loss to 1.313
    assert score(logits, [1], 1).loss == pytest.approx(math.log1p(math.e), rel=1e-6)


def test_no_gradient_is_kept():
    weight = torch.ones(1, 2, requires_grad=True)
    seen = []
    evaluate(
        lambda image: seen.append(image @ weight) or seen[-1],
        [(torch.ones(3, 1), torch.tensor([0, 1, 0]))],
    )
    assert not seen[0].requires_grad

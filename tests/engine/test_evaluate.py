"""Accuracy against counting by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdkd_plugin.engine.evaluate import correct_within, describe, evaluate


def score(logits: Tensor, target: list[int], batch_size: int) -> dict[str, float]:
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
    assert (found["top1"], found["top5"]) == (50.0, 75.0)
    log_sum = math.log(math.fsum(math.exp(z) for z in (9, 1, 2, 3, 4, 5, 6)))
    losses = [log_sum - 9, log_sum - 3, log_sum - 2, math.log(6 + math.exp(7)) - 7]
    assert found["loss"] == pytest.approx(math.fsum(losses) / 4, rel=1e-6)
    line = f"top-1 50.00, top-5 75.00, loss {found['loss']:.4f}, ECE {found['ece']:.2f}"
    assert describe(found) == line


def test_with_fewer_than_five_classes_every_image_is_within_five():
    found = score(torch.tensor([[1.0, 2.0, 3.0]] * 3), [0, 1, 2], 3)
    assert found["top1"] == pytest.approx(100 / 3) and found["top5"] == 100.0


def test_correct_within_counts_ranks():
    logits = torch.tensor([[3.0, 2.0, 1.0]] * 3)
    target = torch.tensor([0, 1, 2])
    assert [int(correct_within(logits, target, k)) for k in (1, 2, 3, 9)] == [1, 2, 3, 3]


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
    assert (parts["top1"], parts["top5"]) == (whole["top1"], whole["top5"])
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert parts["ece"] == pytest.approx(whole["ece"], rel=1e-6)
    assert whole["top1"] == pytest.approx(100 * (logits.argmax(1) == target).double().mean().item())


def test_half_precision_logits_are_scored_in_float32():
    logits = torch.tensor([[1.0, 0.0]]).half()  # float16 would round the loss to 1.313
    assert score(logits, [1], 1)["loss"] == pytest.approx(math.log1p(math.e), rel=1e-6)


def test_the_calibration_error_by_hand():
    """Four images of confidence 0.9, three of them right, and a wrong one of confidence 0.6:
    4/5 |0.75 - 0.9| + 1/5 |0 - 0.6| = 0.24.
    """
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.6], dtype=torch.float64)
    logits = torch.stack([confidence, 1 - confidence], dim=1).log()
    for batch_size in (1, 2, 5):
        assert score(logits, [0, 0, 0, 1, 1], batch_size)["ece"] == pytest.approx(24.0, rel=1e-5)


def test_a_bin_weighs_its_images_together():
    """Right at 0.62 and wrong at 0.64 share a bin of 15: |1 - 2 * 0.63| / 2; alone it were more."""
    logits = torch.tensor([[0.62, 0.38], [0.64, 0.36]]).log()
    assert score(logits, [0, 1], 2)["ece"] == pytest.approx(13.0, rel=1e-4)
    assert score(logits, [1, 1], 2)["ece"] == pytest.approx(63.0, rel=1e-4)


@settings(deadline=None)
@given(st.integers(1, 200))
def test_the_calibration_error_equals_a_slow_count(count):
    generator = torch.Generator().manual_seed(count)
    logits = 4 * torch.randn(count, 5, generator=generator)
    target = torch.randint(5, (count,), generator=generator)
    confidence, predicted = logits.double().softmax(1).max(1)
    slow = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            right = (predicted == target)[inside].double().mean()
            slow += inside.double().mean() * abs(right - confidence[inside].mean())
    assert score(logits, target.tolist(), 7)["ece"] == pytest.approx(100 * float(slow), rel=1e-9)


def test_the_extremes_of_confidence_have_a_bin():
    sure = torch.tensor([[200.0, 0.0]])
    assert score(sure, [0], 1)["ece"] == 0.0 and score(sure, [1], 1)["ece"] == 100.0
    even = torch.zeros(1, 20)  # 0.05: the first bin's
    assert score(even, [0], 1)["ece"] == pytest.approx(95.0)


def test_no_gradient_is_kept():
    weight = torch.ones(1, 2, requires_grad=True)
    seen = []
    evaluate(
        lambda image: seen.append(image @ weight) or seen[-1],
        [(torch.ones(3, 1), torch.tensor([0, 1, 0]))],
    )
    assert not seen[0].requires_grad

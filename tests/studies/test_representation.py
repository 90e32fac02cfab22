"""KL and CKA against values by hand, a slow version of the definition, and what must not matter."""

import itertools
import math

import pytest
import torch

from sdkd_plugin.errors import UserError
from sdkd_plugin.studies.representation import LinearCka, hsic, linear_cka, mean_kl


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int) -> torch.Tensor:
    return torch.linalg.qr(noise(size, size, seed=9))[0]


def test_the_kl_by_hand():
    p = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    q = torch.tensor([[0.25, 0.75], [0.25, 0.75]]).log()
    forward = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)  # of the first image; the second's is 0
    backward = 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)
    assert mean_kl(p, q) == pytest.approx(forward / 2, rel=1e-6)
    assert mean_kl(q, p) == pytest.approx(backward / 2, rel=1e-6)
    assert mean_kl(p, p) == pytest.approx(0, abs=1e-12)


def test_the_kl_at_a_temperature_is_that_of_the_divided_logits():
    p, q = noise(7, 5), noise(7, 5, seed=1)
    assert mean_kl(p, q, 4.0) == pytest.approx(mean_kl(p / 4, q / 4), rel=1e-12)
    assert mean_kl(500 * p, 500 * q) < math.inf


def slow_hsic(k: torch.Tensor, other: torch.Tensor) -> float:
    """The U-statistic's definition: mean over ordered quadruples of different images."""
    terms = [
        k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q])
        for i, j, q, r in itertools.permutations(range(len(k)), 4)
    ]
    return float(sum(terms) / len(terms))


def test_hsic_is_its_definition():
    x, y = noise(6, 3), noise(6, 2, seed=1)
    k, other = x @ x.T, y @ y.T
    assert hsic(k, other).item() == pytest.approx(slow_hsic(k, other), rel=1e-10)


def test_cka_by_hand():
    """Images at 0, 0, 1, 1 and 0, 1, 0, 1 on a line. Off the diagonal, K = x x' has the single
    pair (3, 4), L the pair (2, 4).

    tr(K L) = 0, 1'K1 = 1'L1 = 2, 1'K L 1 = rows (0, 0, 1, 1) times (0, 1, 0, 1) = 1:
    HSIC(K, L) = (0 + 4 / 6 - 2 / 2) / 4 = -1 / 12. tr(K K) = 2, 1'K K 1 = 2:
    HSIC(K, K) = (2 + 4 / 6 - 2) / 4 = 1 / 6, and so for L. CKA = -1 / 2.
    """
    x = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)[:, None]
    y = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)[:, None]
    assert hsic(x @ x.T, y @ y.T).item() == pytest.approx(-1 / 12, rel=1e-12)
    assert hsic(x @ x.T, x @ x.T).item() == pytest.approx(1 / 6, rel=1e-12)
    assert linear_cka(x, y) == pytest.approx(-1 / 2, rel=1e-9)
    assert linear_cka(x, 1 - x) == pytest.approx(1, rel=1e-9)


def test_rotations_scale_and_shift_do_not_matter():
    x, y = noise(12, 5), noise(12, 5, seed=1) + noise(12, 5)
    value = linear_cka(x, y)
    assert 0.2 < value < 0.95
    assert linear_cka(x @ rotation(5), y) == pytest.approx(value, rel=1e-9)
    assert linear_cka(x, 37 * y) == pytest.approx(value, rel=1e-9)
    assert linear_cka(x + 100, y - 3) == pytest.approx(value, rel=1e-9)
    assert linear_cka(x, 2 * x @ rotation(5)) == pytest.approx(1, rel=1e-9)


def test_another_stretch_does_matter():
    x = noise(12, 5)
    assert linear_cka(x, x * torch.tensor([1.0, 1.0, 1.0, 1.0, 9.0])) < 0.99


def test_unrelated_maps_of_many_channels_are_not_alike():
    """What the plain estimate gets wrong: 20 images of 5000 unrelated channels give 0.99 there."""
    x, y = noise(20, 5000), noise(20, 5000, seed=1)
    plain = [z - z.mean(0) for z in (x, y)]
    grams = [z @ z.T for z in plain]
    biased = (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    assert biased > 0.9
    cka = LinearCka()
    for seed in range(50):
        cka.add(noise(20, 500, seed=seed), noise(20, 500, seed=1000 + seed))
    assert abs(cka.value) < 0.05


def test_batches_are_added_and_too_small_ones_left_out():
    x, y = noise(16, 3), noise(16, 3, seed=1) + noise(16, 3)
    whole = LinearCka()
    whole.add(x[:8], y[:8])
    whole.add(x[8:], y[8:])
    parts = [hsic(a @ a.T, b @ b.T) for a, b in ((x[:8], y[:8]), (x[8:], y[8:]))]
    own = [hsic(a @ a.T, a @ a.T) for a in (x[:8], x[8:])]
    theirs = [hsic(b @ b.T, b @ b.T) for b in (y[:8], y[8:])]
    expected = sum(parts) / (sum(own) * sum(theirs)) ** 0.5
    assert whole.value == pytest.approx(expected.item(), rel=1e-9)
    whole.add(x[:3], y[:3])
    assert whole.value == pytest.approx(expected.item(), rel=1e-9)
    with pytest.raises(UserError, match="CKA of 3 images; allowed: 4 or more"):
        linear_cka(x[:3], y[:3])


def test_maps_that_are_the_same_for_all_images_have_no_cka():
    assert math.isnan(linear_cka(torch.ones(6, 3), noise(6, 3)))

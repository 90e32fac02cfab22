"""How like two networks are: in what they say, and in their maps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sdkd_plugin.errors import UserError

FEWEST = 4  # images in a batch; the estimate divides by n - 3


def mean_kl(logits_p: Tensor, logits_q: Tensor, tau: float = 1.0) -> float:
    """KL(p || q) = mean over images of sum_k p_k log(p_k / q_k), p and q softmax(z / tau).

    Args:
        logits_p, logits_q: [N, K].
        tau: above 0.
    Returns:
        in nats, at least 0 up to rounding; not times tau^2.
    """
    log_p, log_q = (F.log_softmax(z.double() / tau, dim=1) for z in (logits_p, logits_q))
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True).item()


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion.

    With zeros on both diagonals: (tr(K L) + 1'K1 1'L1 / ((n-1) (n-2)) - 2 / (n-2) 1'K L 1) divided
    by n (n-3).

    Args:
        first, second: K and L, [n, n] symmetric, n at least 4.
    Returns:
        scalar; its mean over samples is 0 where the two are independent, so it may be below.
    Source: Song et al., Feature Selection via Dependence Maximization, JMLR 2012, eq. 5.
    """
    n = len(first)
    first, second = (each - each.diagonal().diag() for each in (first, second))
    rows_k, rows_l = first.sum(0), second.sum(0)  # [n]
    both = (first * second).sum() + rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2))
    return (both - 2 / (n - 2) * rows_k @ rows_l) / (n * (n - 3))


class LinearCka:
    """Centred kernel alignment of two networks' maps with the kernel <x, y>, over batches:
    sum HSIC(K, L) / sqrt(sum HSIC(K, K) sum HSIC(L, L)).

    1 for maps that are equal up to rotation and scale, near 0 for unrelated ones. HSIC is the
    unbiased estimate, so that neither many channels nor small batches look like likeness.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019;
    over batches: Nguyen et al., Do Wide and Deep Networks Learn the Same Things?, ICLR 2021.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64)  # of K and L, K and K, L and L

    def add(self, x: Tensor, y: Tensor) -> None:
        """Takes a batch in: maps [N, ...] and [N, ...] of the same N images. Fewer than FEWEST say
        nothing and are left out.
        """
        if len(x) < FEWEST:
            return
        one, two = gram(x), gram(y)
        self._sums += torch.stack([hsic(one, two), hsic(one, one), hsic(two, two)]).cpu()

    @property
    def value(self) -> float:
        """From about 0 to 1; NaN where one of the two is the same for all images."""
        both, first, second = self._sums.tolist()
        return both / (first * second) ** 0.5 if min(first, second) > 0 else float("nan")


def gram(maps: Tensor) -> Tensor:
    """[N, N] float64: <x_i, x_j> of maps [N, ...], less their mean over the batch, which changes
    nothing but keeps digits.
    """
    flat = maps.flatten(1).double()  # [N, D]
    flat = flat - flat.mean(0)
    return flat @ flat.T


def linear_cka(x: Tensor, y: Tensor) -> float:
    """LinearCka of one batch.

    Raises:
        UserError: fewer than FEWEST images.
    """
    if len(x) < FEWEST:
        raise UserError(f"CKA of {len(x)} images; allowed: {FEWEST} or more")
    cka = LinearCka()
    cka.add(x, y)
    return cka.value

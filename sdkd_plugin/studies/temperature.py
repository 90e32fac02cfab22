"""The temperature at which a network's cross entropy has a wanted value."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdkd_plugin.errors import UserError

# Of beta = 1 / tau. Beyond it softmax is argmax for any logits that differ by more than 1e-9.
LARGEST = 2.0**40
PRECISION = 1e-12  # relative, of beta
SOFTER = "softer"  # tau above the one of the smallest cross entropy: too little confidence
SHARPER = "sharper"  # below it: too much
BEST = "calibrated"  # at it


@dataclass(frozen=True)
class Root:
    """A temperature tau, and on which side of the smallest cross entropy it lies: SOFTER, SHARPER
    or BEST.
    """

    tau: float
    branch: str


class CrossEntropyCurve:
    """L(tau) = mean over images of log sum_k exp(z_k / tau) - z_y / tau, which is convex in
    beta = 1 / tau.

    At beta 0 it is log K. From there it falls to its minimum and rises for ever, unless every image
    is classified rightly: then it falls for ever, towards 0.

    Args:
        logits: z [N, K], finite; K at least 2, N at least 1.
        target: y [N], class numbers.
    Source: the temperature of Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """

    def __init__(self, logits: np.ndarray, target: np.ndarray):
        logits = np.asarray(logits, np.float64)
        own = logits[np.arange(len(target)), np.asarray(target)]
        self._gaps = logits - own[:, None]  # [N, K]: z_k - z_y

    def loss(self, beta: float) -> float:
        """L at tau = 1 / beta, in nats; at least 0."""
        from scipy.special import logsumexp

        return float(logsumexp(beta * self._gaps, axis=1).mean())

    def slope(self, beta: float) -> float:
        """dL / dbeta, which never falls: mean over images of sum_k p_k z_k - z_y."""
        from scipy.special import softmax

        return float((softmax(beta * self._gaps, axis=1) * self._gaps).sum(1).mean())

    def at(self, tau: float) -> float:
        """L(tau), tau above 0."""
        return self.loss(1 / tau)

    def minimum(self) -> float:
        """The beta of the smallest L: 0 where it only rises, LARGEST where it only falls."""
        if self.slope(0.0) >= 0:
            return 0.0
        high = _first_power(lambda beta: self.slope(beta) > 0)
        return LARGEST if high is None else _root(self.slope, 0.0, high)

    def side(self, tau: float) -> str:
        """Which branch tau lies on."""
        slope = self.slope(1 / tau)
        return BEST if slope == 0 else SHARPER if slope > 0 else SOFTER

    def reach(self, wanted: float) -> list[Root]:
        """Every tau with L(tau) = wanted, the softer first: none, one or two."""
        best = self.minimum()
        excess = self.loss(best) - wanted
        if excess > 0:
            return []
        if excess == 0:
            return [Root(1 / best, BEST)] if best else []

        roots = []
        if self.loss(0.0) > wanted:
            beta = _root(lambda beta: self.loss(beta) - wanted, 0.0, best)
            roots.append(Root(1 / beta, SOFTER))
        if best < LARGEST:
            high = _first_power(lambda beta: beta > best and self.loss(beta) > wanted)
            if high is not None:
                beta = _root(lambda beta: self.loss(beta) - wanted, best, high)
                roots.append(Root(1 / beta, SHARPER))
        return roots


def choose(roots: list[Root], branch: str) -> Root | None:
    """The root on this branch; where there is none, the other; None if there is none at all."""
    on_it = [root for root in roots if root.branch == branch]
    return next(iter(on_it or roots), None)


def check_logits(logits: np.ndarray, name: str) -> None:
    """Raises UserError where a network's logits are not finite: no temperature helps."""
    if not np.isfinite(logits).all():
        raise UserError(f"teacher {name} has logits that are NaN or infinite: give another file")


def _first_power(reached: Callable[[float], bool]) -> float | None:
    """The first power of two, up to LARGEST, at which a condition holds that then stays."""
    beta = 2.0**-20
    while beta <= LARGEST:
        if reached(beta):
            return beta
        beta *= 2
    return None


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-300, rtol=PRECISION, maxiter=500))

"""Every random number is a function of a key: (seed, purpose, epoch, ...), never of what was drawn
before.

So results do not depend on prefetching, worker count, the method being trained or an interruption.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def _digest(seed: int, key: tuple) -> bytes:
    text = "/".join([str(int(seed)), *map(str, key)])
    return hashlib.sha256(text.encode()).digest()


def keyed_generator(seed: int, *key: object) -> np.random.Generator:
    """Numpy generator (Philox, counter-based) whose stream depends on (seed, *key) alone."""
    return np.random.Generator(
        np.random.Philox(key=np.frombuffer(_digest(seed, key)[:16], np.uint64))
    )


@contextmanager
def torch_seeded(seed: int, *key: object) -> Iterator[None]:
    """Inside the block torch's CPU generator depends on (seed, *key) alone; outside it is left as
    it was.

    Used to build modules: initial weights are drawn on the CPU, so they are the same on every
    device.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(_digest(seed, key)[:8], "little") >> 1)
        yield


@contextmanager
def cpu_seeded(seed: int, *key: object) -> Iterator[None]:
    """As `torch_seeded`, for draws on the CPU alone that are made often: it leaves every device's
    generator as it is.
    """
    outside = torch.get_rng_state()
    torch.default_generator.manual_seed(int.from_bytes(_digest(seed, key)[:8], "little") >> 1)
    try:
        yield
    finally:
        torch.set_rng_state(outside)


class TorchStream:
    """A stream of torch's CPU generator that depends on (seed, *key) alone and goes on where it
    was left, whoever draws in between; `with stream:` draws from it.
    """

    def __init__(self, seed: int, *key: object):
        with torch_seeded(seed, *key):
            self._inside = torch.get_rng_state()

    def __enter__(self) -> None:
        self._outside = torch.get_rng_state()
        torch.set_rng_state(self._inside)

    def __exit__(self, *error: object) -> None:
        self._inside = torch.get_rng_state()
        torch.set_rng_state(self._outside)

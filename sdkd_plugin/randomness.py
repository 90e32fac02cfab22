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

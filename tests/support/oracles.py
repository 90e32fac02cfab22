"""Rebuilds the inputs of the foreign oracles in tests/oracle/*.json.

Those files hold what mdistiller (a08d46f) and RepDistiller (b84f547) compute in float64, measured
by running them; nothing in this repository writes them.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).with_name("oracle")


def load(name: str) -> dict:
    """Reads tests/oracle/<name>.json."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def formula(shape: tuple[int, ...], key: str) -> Tensor:
    """A float64 tensor, uniform on [-1, 1), that depends on its shape and key alone.

    It is splitmix64 of index and crc32.
    """
    with np.errstate(over="ignore"):
        u = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(zlib.crc32(key.encode()) << 32)
        z = (u + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1).reshape(shape)


def fill(module: nn.Module, prefix: str = "") -> nn.Module:
    """Sets the module's whole state to the oracle's formula weights, in float64; returns it."""
    module.double()
    for key, value in module.state_dict().items():
        if not value.is_floating_point():
            value.zero_()
            continue
        f = formula(tuple(value.shape), prefix + key)
        if value.ndim > 1:
            value.copy_(math.sqrt(6 / math.prod(value.shape[1:])) * f)
        elif key.endswith("running_var"):
            value.copy_(1 + 0.5 * f**2)
        elif key.endswith("weight"):
            value.copy_(1 + 0.1 * f)
        else:
            value.copy_(0.1 * f)
    return module

"""A network of somebody else's, whatever it returns, with the contract of base.py."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.models.anatomy import runs
from sdkd_plugin.models.base import CifarNet
from sdkd_plugin.models.library import SIZE, ZOO_SIZE, LibraryModel


def adopt_built(net: nn.Module, name: str, size: int | None) -> nn.Module:
    """A registered model as methods want it; see `adopt`.

    Args:
        name: it is registered under.
        size: of images that it can run, pixels; None: one of ZOO_SIZE and SIZE.
    Raises:
        UserError: it can run neither, or what `adopt` says.
    """
    if isinstance(net, CifarNet | LibraryModel):
        return net
    sizes = (ZOO_SIZE, SIZE) if size is None else (size,)
    for each in sizes:
        given = runs(net, each)
        if given is not None:
            return adopt(net, name, given, each)
    tried = " nor ".join(f"{each}x{each}" for each in sizes)
    raise UserError(
        f"model {name} cannot run an image of {tried}; say what it can run, in pixels: "
        f"@MODELS.register({name!r}, size=...)"
    )


def adopt(net: nn.Module, name: str, given: Any, size: int) -> nn.Module:
    """The network itself if it returns `(logits, feats)`; one that returns logits alone in a
    wrapper that watches its maps, see library.py.

    Args:
        name: what messages call it.
        given: what it returns for images of `size`, pixels.
    Raises:
        UserError: it returns something else.
    """
    if isinstance(given, Tensor) and given.dim() == 2:
        return type(name, (LibraryModel,), {})(net, size)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping):
        return net
    raise UserError(
        f"{name} returns {what_is(given)}; allowed: logits [N, K], or (logits, feats) as "
        "models/base.py says"
    )


def what_is(value: Any) -> str:
    """A value in a few words, such as "a tensor [2, 3]"."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__

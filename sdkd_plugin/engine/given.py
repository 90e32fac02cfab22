"""What a caller's own networks and batches must be, see `own_loop`."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.models.adopted import adopt, what_is
from sdkd_plugin.models.probe import eval_mode

# One batch of a loader: image [N, 3, H, W], normalised, and target [N] int64.
Pair = tuple[Tensor, Tensor]


def with_features(network: nn.Module, size: int) -> tuple[nn.Module, int]:
    """The network itself if it returns `(logits, feats)`, one that returns logits alone in a
    wrapper that watches its maps, see `models.library`; and its number of classes.

    Args:
        size: of the images that it will see, pixels.
    Raises:
        UserError: it is no network with weights, cannot run them, or returns something else.
    """
    if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
        raise UserError(
            f"{type(network).__name__} has no weights to learn or to teach by; allowed: a "
            "torch.nn.Module with parameters"
        )
    weight = next(network.parameters())
    image = torch.zeros(2, 3, size, size, device=weight.device, dtype=weight.dtype)
    kind = type(network).__name__
    try:
        with torch.no_grad(), eval_mode(network):
            given = network(image)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"{kind} cannot run images [N, 3, {size}, {size}], which the loader gives: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    adopted = adopt(network, kind, given, size)
    logits = given[0] if isinstance(given, tuple) else given  # [2, K]
    return adopted, logits.shape[1]


def first_pair(loader: Iterable[Pair]) -> Pair:
    """The loader's first batch; what it draws is left undrawn.

    Raises:
        UserError: it can be gone through only once, is empty, or gives something else.
    """
    with torch.random.fork_rng(devices=[]):  # to look must not move what is drawn later
        batches = iter(loader)
        if batches is loader:
            raise UserError(
                f"loader is a {type(loader).__name__}, which can be gone through once; give one "
                "that can be gone through in each epoch, such as a DataLoader or a list"
            )
        first = next(batches, None)
    if first is None:
        raise UserError("loader gave no batch; give a DataLoader or a list of (image, target)")
    image, target = as_pair(first, "cpu")
    if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] != image.shape[3]:
        raise UserError(
            f"loader gives images of shape {list(image.shape)}; allowed: [N, 3, H, W], H = W"
        )
    if not image.is_floating_point():
        raise UserError(f"loader gives images of {image.dtype}; allowed: floats, normalised")
    if target.shape != image.shape[:1] or target.dtype != torch.int64:
        raise UserError(
            f"loader gives targets {list(target.shape)} of {target.dtype}; allowed: [N] of "
            "torch.int64, the images' classes"
        )
    return image, target


def check_targets(target: Tensor, classes: int) -> None:
    """Raises UserError for a class, of targets [N], that a student has no logit for.

    Targets that a loader gives on another device than the CPU are not looked at: it would have to
    be waited for, and says so itself.
    """
    if target.device.type != "cpu" or not len(target):
        return
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= classes:
        raise UserError(
            f"loader gives targets from {low} to {high}; allowed: 0 to {classes - 1}, as the "
            f"student has {classes} classes"
        )


def as_pair(batch: Any, device: torch.device | str, classes: int | None = None) -> Pair:
    """A batch on a device.

    Args:
        classes: of the student; None: not known yet.
    Raises:
        UserError: it is no pair of tensors, or has a class that the student does not know.
    """
    if (
        not isinstance(batch, tuple | list)
        or len(batch) != 2
        or not all(isinstance(part, Tensor) for part in batch)
    ):
        raise UserError(
            f"loader gives {what_is(batch)}; allowed: pairs of tensors (image [N, 3, H, W], "
            "target [N])"
        )
    image, target = batch
    if classes is not None:
        check_targets(target, classes)
    return image.to(device), target.to(device)

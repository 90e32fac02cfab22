"""Where the maps of an unknown network are: it is run once and watched."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.models.probe import eval_mode

SEED = 0  # of the image that is looked at


@dataclass(frozen=True)
class Anatomy:
    """Paths of a network's modules that matter to distillation.

    Args:
        maps: modules whose outputs are the maps, one for each resolution: the stem's, then the
            stages'; empty for a network without square maps, such as a transformer.
        before: for each map the activation whose input is the map before it, or the map's own
            module where it ends in none; None where one ends in one that is no module.
        bare: the maps' modules that end in no activation.
        classifier: the linear layer that gives the logits; None if nothing linear does.
        averages: whether the classifier sees the average of the last map.
        signed: whether the stages' maps have both signs.
        channels: of the maps.
    """

    maps: tuple[str, ...]
    before: tuple[str, ...] | None
    bare: tuple[str, ...]
    classifier: str | None
    averages: bool
    signed: bool
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """What one module did with the image; what is no tensor counts as None."""

    path: str
    module: nn.Module
    given: Tensor | None
    made: Tensor | None

    @property
    def size(self) -> int | None:
        """Height and width of the map that it made; None if that is none."""
        return _side(self.made)

    @property
    def drop(self) -> float:
        """By how much it made the map smaller."""
        given = _side(self.given)
        return given / self.size if given and self.size else 1.0


@torch.no_grad()
def dissect(net: nn.Module, size: int, named: tuple[str, ...] = ()) -> Anatomy:
    """Runs the network in eval mode on one image of noise, and finds its parts.

    A map is what stands at the end of one resolution: the output of the last module before the
    next one is smaller. Modules that shrink a map more than once, or that a network is wholly made
    of, are looked into; what lies inside the others is theirs alone.

    Args:
        size: of the image, in pixels; large enough that the last map has more than one.
        named: the modules that make the maps, where the network says so itself.
    Raises:
        UserError: it cannot run such an image, or does not return logits alone.
    """
    calls, logits = _watch(net, size)
    stages = [call for path in named for call in calls if call.path == path]
    if not _shrinking(stages):
        stages = list(_ends(calls, _top(net, calls)))
    if len(stages) < 2:
        stages = []

    classifier = next(
        (c for c in reversed(calls) if isinstance(c.module, nn.Linear) and c.made is logits), None
    )
    averages = bool(
        stages
        and classifier
        and classifier.given is not None
        and stages[-1].made is not None
        and stages[-1].made.shape[:2] == classifier.given.shape
        and torch.allclose(stages[-1].made.mean((2, 3)), classifier.given, rtol=1e-4, atol=1e-5)
    )
    activations = [_activation(stage, calls) for stage in stages]
    # one that is a function leaves no module, but no negative value either
    bare = [s.path for s, a in zip(stages, activations, strict=True) if not a and _is_signed(s)]
    before = [a or s.path for s, a in zip(stages, activations, strict=True) if a or s.path in bare]
    maps = [stage.made for stage in stages if stage.made is not None]
    return Anatomy(
        maps=tuple(stage.path for stage in stages),
        before=tuple(before) if len(before) == len(stages) else None,
        bare=tuple(bare),
        classifier=classifier.path if classifier else None,
        averages=averages,
        signed=any(map(_is_signed, stages[1:])),
        channels=tuple(each.shape[1] for each in maps),
    )


def runs(net: nn.Module, size: int) -> Any:
    """What the network returns for an image of noise in eval mode; None where it cannot run one of
    this size.
    """
    weight = next(net.parameters())
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(1, 3, size, size, generator=generator, device="cpu")
    with torch.no_grad(), eval_mode(net):
        try:
            return net(noise.to(weight))
        except (RuntimeError, ValueError, AssertionError):
            return None


def _watch(net: nn.Module, size: int) -> tuple[list[Call], Tensor]:
    """Every module's call in the order in which they end, the last of each, and the logits."""
    calls: dict[str, Call] = {}
    with _watched(net, calls):
        logits = runs(net, size)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        kind = type(net).__name__
        raise UserError(f"{kind} does not return logits [N, K] for an image of {size}x{size}")
    return list(calls.values()), logits


@contextmanager
def _watched(net: nn.Module, calls: dict[str, Call]) -> Iterator[None]:
    def keep(path: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            calls.pop(path, None)  # a module that runs several times counts where it ran last
            tensors = [x if isinstance(x, Tensor) else None for x in (*given[:1], made)]
            calls[path] = Call(path, module, tensors[0] if given else None, tensors[-1])

        return hook

    hooks = [m.register_forward_hook(keep(path)) for path, m in net.named_modules() if path]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _top(net: nn.Module, calls: list[Call]) -> set[str]:
    """The modules whose outputs are candidates: children, those of children that shrink a map more
    than once, and so on.
    """
    by_path = {call.path: call for call in calls}
    top: set[str] = set()
    open_paths = [path for path, _ in net.named_children()]
    for path in open_paths:  # grows on the way
        call = by_path.get(path)
        inside = [f"{path}.{name}" for name, _ in net.get_submodule(path).named_children()]
        if call is None or (call.drop > 2 and inside):
            open_paths += inside
        else:
            top.add(path)
    return top


def _ends(calls: list[Call], top: set[str]) -> Iterator[Call]:
    """The last candidate of each resolution. A global average, a map of one pixel, is none."""
    last: Call | None = None
    for call in calls:
        if call.path not in top or call.size is None or call.size < 2:
            continue
        if last is not None and last.size is not None:
            if call.size > last.size:
                continue
            if call.size < last.size:
                yield last
        last = call
    if last is not None:
        yield last


def _shrinking(stages: list[Call]) -> bool:
    sizes = [stage.size for stage in stages]
    known = [size for size in sizes if size is not None]
    return len(sizes) > 1 and known == sizes and sorted(set(known), reverse=True) == known


def _activation(stage: Call, calls: list[Call]) -> str | None:
    """The activation that made the stage's map, if one did."""
    makers = [call for call in calls if call.made is stage.made]
    kinds = {call.path: type(call.module).__module__ for call in makers}
    return next((p for p, kind in kinds.items() if kind == "torch.nn.modules.activation"), None)


def _is_signed(stage: Call) -> bool:
    return stage.made is not None and bool((stage.made < 0).any())


def _side(x: Tensor | None) -> int | None:
    return x.shape[2] if x is not None and x.dim() == 4 and x.shape[2] == x.shape[3] else None

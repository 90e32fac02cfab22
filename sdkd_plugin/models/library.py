"""Models of torchvision and timm by name, such as "torchvision:resnet18" or "timm:resnet34".

Any of them can teach and learn, with the outputs of a model of the zoo as far as it has them.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.files import write_atomic
from sdkd_plugin.models.anatomy import dissect, runs
from sdkd_plugin.models.families import Family, has_module
from sdkd_plugin.registry import MODELS, Entry

SIZE = 224  # pixels of the image by which a network is taken apart, unless it wants another
ZOO_SIZE = 32  # which every model of the zoo can run
PRETRAINED = "pretrained"  # as DISTILLER.TEACHER_CKPT: the library's own weights

LACKING = {
    "feats": "it has no square maps of falling resolution",
    "preact_feats": "the activations behind its maps are no modules of it",
    "head_in": "its classifier does not see the average of its last map",
    "pooled_feat": "its logits come from no linear layer",
}
Make = Callable[..., nn.Module]  # num_classes, pretrained -> the library's network


class Given(dict[str, Any]):
    """What a library's network gives beside its logits; what it lacks is told, not a KeyError."""

    def __init__(self, name: str, parts: dict[str, Any]):
        super().__init__(parts)
        self._name = name

    def __missing__(self, key: str) -> Any:
        raise lacks(self._name, key)


def lacks(name: str, key: str) -> UserError:
    """Says of a network what it does not give, and why."""
    return UserError(
        f"{name} gives no {key!r}: {LACKING.get(key, 'no model has such a thing')}; choose a "
        "DISTILLER.TYPE that needs none, such as KD or DKD, or another model"
    )


class LibraryModel(nn.Module):
    """A library's network with the contract of models/base.py.

    Its state dict has the library's keys, so that files go both ways. Maps are kept by hooks that
    hold nothing themselves: copies and DataParallel's replicas each keep their own.

    Args:
        net: the network; its weights and the random state stay as they are.
        seen: the size of images that it is known to run, pixels; None: what its library says.
    Raises:
        UserError: it does not return logits alone.
    """

    def __init__(self, net: nn.Module, seen: int | None = None):
        super().__init__()
        for module in net.modules():
            if hasattr(module, "inplace"):
                cast(Any, module).inplace = False  # the map before an activation must survive it

        size = getattr(net, "default_cfg", {}).get("input_size", (3, SIZE, SIZE))[-1]
        if seen is not None and runs(net, size) is None:
            size = seen
        listed = getattr(net, "feature_info", None)
        named = tuple(each["module"] for each in listed or ())
        self.net = net
        self.anatomy = dissect(net, size, named)
        self.probe_size = seen or (size if runs(net, ZOO_SIZE) is None else ZOO_SIZE)
        self._watch()
        self.register_state_dict_post_hook(_strip)
        self.register_load_state_dict_pre_hook(_wrap)

    @property
    def _name(self) -> str:
        return type(self).__name__  # as messages call every model

    def _watch(self) -> None:
        anatomy = self.anatomy
        for path in anatomy.maps:
            self.net.get_submodule(path).register_forward_hook(_keep_output)
        inputs = {path for path in anatomy.before or () if path not in anatomy.bare}
        for path in inputs | ({anatomy.classifier} if anatomy.classifier else set()):
            self.net.get_submodule(path).register_forward_pre_hook(_keep_input)

    def unwatch(self) -> None:
        """Leaves the network as it was given, but for activations that work in place no more."""
        for module in self.net.modules():
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                for key in [k for k, h in hooks.items() if h in (_keep_output, _keep_input)]:
                    del hooks[key]
            for name in ("kept_output", "kept_input"):
                module.__dict__.pop(name, None)

    @property
    def family(self) -> Family:
        """Where the stages are, for SDKD's proxy."""
        stages = tuple(f"net.{path}" for path in self.anatomy.maps[1:])
        if not stages:
            raise lacks(self._name, "feats")
        return Family(self._name, stages, stages, "feats", False, self.anatomy.signed)

    def forward(self, image: Tensor) -> tuple[Tensor, Given]:
        logits = self._logits(image)  # [N, K]
        anatomy = self.anatomy
        parts: dict[str, Any] = {}
        if anatomy.maps:
            feats = [self._kept(path, "kept_output") for path in anatomy.maps]
            parts["feats"] = feats
            if anatomy.before is not None:
                preacts = [
                    made if path in anatomy.bare else self._kept(path, "kept_input")
                    for path, made in zip(anatomy.before, feats, strict=True)
                ]
                # SDKD's proxy wraps stages, or leaves them out, and what lies in them
                if None not in preacts:
                    parts["preact_feats"] = preacts
            if anatomy.averages:
                parts["head_in"] = feats[-1]
        if anatomy.classifier is not None:
            parts["pooled_feat"] = self._kept(anatomy.classifier, "kept_input")
        return logits, Given(self._name, parts)

    def _logits(self, image: Tensor) -> Tensor:
        try:
            return self.net(image)
        except (AssertionError, RuntimeError, ValueError) as error:
            sizes = "x".join(map(str, image.shape[2:]))
            fits = f"{self.probe_size}x{self.probe_size}"
            if sizes == fits or isinstance(error, torch.OutOfMemoryError):
                raise
            raise UserError(
                f"{self._name} cannot run images of {sizes} "
                f"({' '.join(str(error).split())[:100]}); {fits} is known to run: give it "
                "such images"
            ) from error

    def _kept(self, path: str, name: str) -> Tensor | None:
        # taken out: a tensor of a graph can neither be copied nor should outlive it
        if not has_module(self.net, path):
            return None
        return self.net.get_submodule(path).__dict__.pop(name, None)

    def forward_head(self, head_in: Tensor) -> tuple[Tensor, Tensor]:
        """As CifarNet's."""
        if not self.anatomy.averages:
            raise lacks(self._name, "head_in")
        pooled = head_in.mean((2, 3))  # [N, D]
        return self.classifier_module()(pooled), pooled

    def classifier_module(self) -> nn.Linear:
        """The final linear layer, D -> K."""
        if self.anatomy.classifier is None:
            raise lacks(self._name, "pooled_feat")
        return cast(nn.Linear, self.net.get_submodule(self.anatomy.classifier))

    def get_stage_channels(self) -> list[int]:
        """The channels of `feats`, stem included."""
        return list(self.anatomy.channels)

    def get_feat_modules(self) -> nn.ModuleList:
        """Every child but the one that holds the classifier, in the library's order."""
        head = (self.anatomy.classifier or "").split(".")[0]
        return nn.ModuleList(child for name, child in self.net.named_children() if name != head)


def _keep_output(module: nn.Module, given: tuple[Any, ...], made: Tensor) -> None:
    module.kept_output = made


def _keep_input(module: nn.Module, given: tuple[Tensor, ...]) -> None:
    module.kept_input = given[0]


def _strip(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state, f"{prefix}net.", prefix)


def _wrap(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state, prefix, f"{prefix}net.")


def _rename(state: dict[str, Any], old: str, new: str) -> None:
    for key in [key for key in state if key.startswith(old)]:
        state[new + key.removeprefix(old)] = state.pop(key)


def is_library(name: str) -> bool:
    """Whether a model is a library's."""
    return "make" in MODELS[name].info


def pretrained_file(name: str) -> Path:
    """The weights that a library offers for its model, as a checkpoint of this package, made from
    the library's cache, or the net, the first time.

    Raises:
        UserError: the name has no library, or the library cannot give them.
    """
    if not is_library(name):
        raise UserError(
            f"DISTILLER.TEACHER_CKPT is {PRETRAINED!r}, but {name} is no model of a library; give "
            "the file of a trained teacher"
        )

    path = Path("download_ckpts") / PRETRAINED / f"{name.replace(':', '-')}.pth"
    if not path.is_file():
        try:
            net = MODELS[name].info["make"](pretrained=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{name} has no weights that could be had: {' '.join(str(error).split())[:200]}"
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda file: torch.save({"model": net.state_dict()}, file))
    return path


@MODELS.source("torchvision")
def torchvision_entry(name: str) -> Entry:
    """A model of torchvision.models. Raises UserError for a name that it lacks."""
    from torchvision import models

    _check(name, models.list_models(module=models), "torchvision")

    def make(pretrained: bool = False, **settings: Any) -> nn.Module:
        return models.get_model(name, weights="DEFAULT" if pretrained else None, **settings)

    return _entry(f"torchvision:{name}", make)


@MODELS.source("timm")
def timm_entry(name: str) -> Entry:
    """A model of timm. Raises UserError for a name that it lacks, or without timm."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"model timm:{name} needs timm: pip install 'sdkd-plugin[timm]'") from error

    if not timm.is_model(name):  # which also knows names with a tag, such as resnet18.a1_in1k
        _check(name, timm.list_models(), "timm")

    def make(**settings: Any) -> nn.Module:
        return timm.create_model(name, **settings)

    return _entry(f"timm:{name}", make)


def _check(name: str, known: Sequence[str], library: str) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=5, cutoff=0.0)
        raise unknown("model", name, near, f"{library}, which has {len(known)}, among them")


def _entry(name: str, make: Make) -> Entry:
    kind = type(name, (LibraryModel,), {})

    def build(num_classes: int) -> nn.Module:
        return kind(make(num_classes=num_classes))

    return Entry(name, build, {"make": make})

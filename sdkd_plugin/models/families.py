"""Where the stages of a model are: declared by the model, or found by its children's names.

The names are those of mdistiller's models and of ours.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.models.probe import probe


@dataclass(frozen=True)
class Family:
    """Where the stages of one family of models are, for methods that take a model apart.

    Args:
        name: for messages.
        order: paths of modules from the image on, in the order they run; a member may lack
            some that are no stage.
        stages: those of them whose output is a stage's map.
        maps: which list in the model's second output holds these maps, the stem's before them.
        pair: whether a stage returns (out, preact), else out.
        signed: whether the maps have both signs, else they are >= 0.
    """

    name: str
    order: tuple[str, ...]
    stages: tuple[str, ...]
    maps: str
    pair: bool
    signed: bool


_STEM = ("conv1", "bn1", "relu")
_FOUR = ("layer1", "layer2", "layer3", "layer4")
_THREE = _FOUR[:3]
_BLOCKS = ("block1", "block2", "block3", "block4")
_VGG = tuple(f"{kind}{i}" for i in range(5) for kind in ("block", "pool"))[:-1]  # block0, pool0, ..
_WRN = _BLOCKS[:3]
_MOBILE = tuple(f"blocks.{i}" for i in range(7))
_ENDS = ("blocks.1", "blocks.2", "blocks.4", "blocks.6")
# A model belongs to the first family whose stages it has, so those with more stages come first.
FAMILIES = (
    Family("ResNet18/50", _STEM + _FOUR, _FOUR, "feats", pair=True, signed=False),
    Family("resnet and ShuffleNet", _STEM + _THREE, _THREE, "feats", pair=True, signed=False),
    Family("vgg", _VGG, _BLOCKS, "preact_feats", pair=False, signed=True),
    Family("wrn", ("conv1", *_WRN), _WRN, "feats", pair=False, signed=True),
    Family("MobileNetV2", ("conv1", *_MOBILE), _ENDS, "feats", pair=False, signed=True),
)


def find_family(model: nn.Module) -> Family:
    """Returns the family that the model declares, else the first whose stages it has.

    It declares one as its attribute `family`; the others are those of FAMILIES, in order.

    Raises:
        UserError: what it declares is no Family or names stages that it lacks, or it declares
            none and none fits; the model's class is named.
    """
    kind = type(model).__name__
    declared = getattr(model, "family", None)

    if declared is None:
        for family in FAMILIES:
            if all(has_module(model, path) for path in family.stages):
                return family
        names = ", ".join(family.name for family in FAMILIES)
        raise UserError(
            f"there are no stages in {kind}; supported families: {names}; "
            "choose DISTILLER.TEACHER and DISTILLER.STUDENT among them, or let "
            f"{kind} declare its own as `family` (sdkd_plugin/models/families.py)"
        )

    if not isinstance(declared, Family):
        raise UserError(
            f"{kind}.family is {declared!r}; allowed: a Family (sdkd_plugin/models/families.py)"
        )

    stray = [path for path in declared.stages if path not in declared.order]
    lacking = [path for path in declared.stages if not has_module(model, path)]
    if stray or lacking or not declared.stages:
        raise UserError(
            f"{kind}.family has the stages {list(declared.stages)}; allowed: modules of {kind} "
            f"(it lacks {lacking}) that `order` lists (it lacks {stray}), at least one"
        )
    return declared


def stage_channels(model: nn.Module, family: Family) -> list[int]:
    """Channels of the stem's and each stage's map.

    Raises:
        UserError: the model does not return such maps.
    """
    output = probe(model)
    maps: list[Tensor] = []
    if isinstance(output, tuple) and isinstance(output[1], dict):
        maps = output[1].get(family.maps, [])

    if len(maps) != len(family.stages) + 1:
        wanted = f"(logits, {{{family.maps!r}: [stem, {len(family.stages)} stages]}})"
        raise UserError(
            f"{type(model).__name__} has the stages of {family.name} but does not return "
            f"{wanted}, which are needed to take it apart"
        )
    return [each.shape[1] for each in maps]  # of [N, C, H, W]


def has_module(model: nn.Module, path: str) -> bool:
    """Whether the model has a module at this path, such as "blocks.0"."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def replace_module(model: nn.Module, path: str, new: nn.Module) -> None:
    """Puts `new` where the module at this path stood."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)

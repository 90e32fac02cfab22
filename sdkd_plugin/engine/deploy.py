"""Student files: {"model": state_dict, "data": what it was trained on} and a digest; any network
but a bare student also says how to build it again.
"""

from typing import Any

import yaml
from torch import nn
from yacs.config import CfgNode as CN

from sdkd_plugin import weights
from sdkd_plugin.config import check_method, default_config, set_value
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.spec import DataSpec
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.registry import METHODS
from sdkd_plugin.renames import current_names
from sdkd_plugin.settings import flatten

# what "deploy" holds
ENTRY = {"method": str, "teacher": str, "student": str, "num_classes": int, "config": dict}


def pack(distiller: Distiller, cfg: CN, dataset: Dataset) -> dict[str, Any]:
    """What a student file holds: the deployed network's state, what it was trained on and, unless a
    bare student takes that state, its recipe.
    """
    file = pack_network(distiller.deployed(), dataset)
    if shapes(file["model"]) == shapes(distiller.student.state_dict()):
        return file
    node = cfg.DISTILLER
    recipe = {
        "method": node.TYPE,
        "teacher": node.TEACHER,
        "student": node.STUDENT,
        "num_classes": dataset.num_classes,
    }
    return {**file, "deploy": {**recipe, "config": yaml.safe_load(cfg[node.TYPE].dump())}}


def pack_network(network: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """What the file of a bare network holds: its state, and what it was trained on."""
    return {"model": network.state_dict(), "data": DataSpec.of(dataset).entry()}


def unpack(recipe: Any, path: str) -> nn.Module:
    """The network that a file's "deploy" entry describes, with random weights: what its method,
    built anew, would deploy.

    Raises:
        UserError: the entry is malformed, of a method or model unknown here, or its config has
            other keys than ours.
    """
    if not isinstance(recipe, dict) or {key: type(value) for key, value in recipe.items()} != ENTRY:
        raise UserError(
            f"checkpoint {path}: 'deploy' is malformed; wanted the entries {', '.join(ENTRY)}, as "
            "a run writes them"
        )

    name = recipe["method"]
    num_classes = recipe["num_classes"]
    method = METHODS[name].build
    cfg = default_config()
    # a file that an earlier version wrote has the names that it knew
    settings = current_names({f"{name}.{key}": v for key, v in flatten(recipe["config"])})
    known = {f"{name}.{key}" for key, _ in flatten(cfg.get(name, {}))}
    foreign = sorted(key.removeprefix(f"{name}.") for key in settings.keys() ^ known)
    if foreign:
        raise UserError(
            f"checkpoint {path}: its {name} settings differ from this version's in "
            f"{', '.join(foreign)}"
        )

    for key, value in settings.items():
        set_value(cfg, key, value)
    cfg.DISTILLER.TYPE = name
    cfg.DISTILLER.TEACHER = recipe["teacher"]
    cfg.DISTILLER.STUDENT = recipe["student"]
    check_method(cfg, name)

    student = build_model(recipe["student"], num_classes)
    teacher = None if method.teacher_from == "none" else build_model(recipe["teacher"], num_classes)
    return method(student, teacher, cfg, *([1] if method.needs_num_data else [])).deployed()


def load_network(path: str, name: str, num_classes: int) -> tuple[str, nn.Module]:
    """The network in a student or teacher file.

    Args:
        path: the file.
        name: of the model it should hold; empty: whatever a file with a "deploy" entry says.
        num_classes: of the data set.
    Returns:
        what the network is, in words, and the network with the file's weights.
    Raises:
        UserError: nothing says which model the file holds, or it holds another model, or one for
            other classes.
    """
    recipe = weights.load(path).get("deploy")
    if recipe is None:
        if not name:
            raise UserError(
                f"checkpoint {path} does not say which model it holds; name it with -m, such as -m "
                "resnet20"
            )
        network = build_model(name, num_classes)
    else:
        network = unpack(recipe, path)
        if (name or recipe["student"], num_classes) != (recipe["student"], recipe["num_classes"]):
            held = f"{recipe['student']} for {recipe['num_classes']} classes"
            raise UserError(
                f"checkpoint {path} holds {held}; asked for is {name or 'its model'} for "
                f"{num_classes} classes"
            )
        name = f"{recipe['student']} as {recipe['method']} deploys it"

    weights.load_weights(network, path, name)
    return name, network


def shapes(state: dict[str, Any]) -> dict[str, Any]:
    """Each entry's shape; two networks with the same take each other's weights."""
    return {key: value.shape for key, value in state.items()}

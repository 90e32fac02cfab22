"""Puts this package's methods into mdistiller's registries, as true subclasses of its own
Distiller.
"""

import copy
import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from torch import nn
from yacs.config import CfgNode as CN

from sdkd_plugin.config import check_method
from sdkd_plugin.defaults import RENAMED_VALUES
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS, Entry
from sdkd_plugin.upstream.phases import TRAINER, phased_trainer

# the methods that mdistiller a08d46f has itself, under the names that ours have
THEIRS = (
    *("AT", "CRD", "DKD", "FITNET", "KD", "KDSVD", "NST", "OFD", "PKT", "REVIEWKD", "RKD"),
    *("SP", "VID"),
)
MARK = "_sdkd_plugin"  # attribute of the classes built here, to know them again


def register(methods: Iterable[str] | None = None, replace: bool = False) -> list[str]:
    """Adds methods to `mdistiller.distillers.distiller_dict` and their config nodes to
    `mdistiller.engine.cfg.CFG`.

    Calling it again changes nothing. It may be called while mdistiller.distillers is still being
    imported, once its `distiller_dict` exists.

    Args:
        methods: names to add; None: every method that mdistiller lacks and its trainer can carry.
        replace: put ours in the place of an entry that is mdistiller's or somebody else's.
    Returns:
        the names that are this package's now.
    Raises:
        UserError: mdistiller cannot be imported, a method cannot run there (says why), or a name is
            taken.
    """
    distillers = _import("mdistiller.distillers")
    cfg = _import("mdistiller.engine.cfg").CFG
    known = distillers.distiller_dict
    entries = [METHODS[name] for name in methods] if methods is not None else list(METHODS)
    chosen = []

    for entry in entries:
        why_not = obstacle(entry)
        present = known.get(entry.name)
        ours = getattr(present, MARK, False)
        theirs = present is not None and not ours and present.__module__.startswith("mdistiller.")
        if methods is None and (why_not or theirs):
            continue
        if why_not:
            raise UserError(f"method {entry.name!r} cannot run in mdistiller: {why_not}")
        if present is not None and not ours and not replace:
            raise UserError(
                f"mdistiller's distiller_dict has {entry.name!r} already, from "
                f"{present.__module__}; register(replace=True) puts this package's in its place"
            )
        if not ours:
            known[entry.name] = bridge(entry, _import("mdistiller.distillers._base").Distiller)
        _add_node(cfg, entry)
        chosen.append(entry.name)

    _add_trainer()
    return chosen


def obstacle(entry: Entry) -> str | None:
    """Why mdistiller's trainer cannot carry a method, in a line; None if it can.

    Read from what the method declares: upstream's loop asserts a teacher's checkpoint, hands
    negatives to the type CRD alone, and saves the bare student. Its one phase becomes several with
    the trainer of phases.py.
    """
    method = entry.build
    if method.teacher_from == "none":
        return "mdistiller builds its vanilla runs itself"
    if method.teacher_from == "scratch":
        return (
            "it trains its teacher, and mdistiller asserts that a teacher comes from a checkpoint"
        )

    if method.before_step is not Distiller.before_step:
        return "it acts before each step, and mdistiller does not call it there"
    if method.deployed is not Distiller.deployed:
        return "what it deploys is more than the student, and mdistiller saves the student alone"
    if (method.needs_negatives or method.needs_num_data) and entry.name != "CRD":
        return "mdistiller hands sample indices and the number of images to the type CRD alone"
    if method.views > 1:
        return f"it looks at {method.views} views of each image, and mdistiller's loader has one"
    if method.needs_model_extras:
        return (
            "it reads `head_in` or the classifier of the models, which mdistiller's models do "
            "not offer"
        )
    return None


def needs_trainer(entry: Entry) -> bool:
    """Whether a method trains in phases, for which SOLVER.TRAINER must be the entry of
    phases.py.
    """
    return entry.build.phases is not Distiller.phases and not entry.build.optional_phases


def bridge(entry: Entry, upstream_distiller: type[nn.Module]) -> type[nn.Module]:
    """A class that is this package's method and mdistiller's Distiller at once.

    Python asks our classes first; a link between the two spares upstream's constructor, whose two
    attributes our own sets. Values that the method does not allow raise UserError, since
    mdistiller's config never went through `load_config`; so do settings that ask for several phases
    without the trainer that has them.
    """

    def construct(self: nn.Module) -> None:
        nn.Module.__init__(self)

    def construct_checked(
        self: Distiller, student: nn.Module, teacher: nn.Module, cfg: CN, *num_data: int
    ) -> None:
        cfg = _todays(cfg, entry)
        check_method(cfg, entry.name)
        entry.build.__init__(self, student, teacher, cfg, *num_data)
        if len(self.phases(cfg)) > 1 and cfg.SOLVER.TRAINER != TRAINER:
            raise UserError(
                f"SOLVER.TRAINER is {cfg.SOLVER.TRAINER!r}, which has one phase, but {entry.name} "
                f"with these settings has several; allowed: {TRAINER}"
            )

    link = type("UpstreamDistiller", (upstream_distiller,), {"__init__": construct})
    body = {MARK: True, "__doc__": entry.build.__doc__, "__init__": construct_checked}
    return type(entry.build.__name__, (entry.build, link), body)


def _todays(cfg: CN, entry: Entry) -> CN:
    """A copy of mdistiller's config with today's names: what was set under the first name of a key
    stands under the one it has now, and so does the trainer.
    """
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.SOLVER.TRAINER in _first_trainers():
        cfg.SOLVER.TRAINER = TRAINER
    node = cfg[entry.name]
    for first, name in entry.info.get("renamed", {}).items():
        value = node.pop(first, None)
        if value is None:
            continue
        if node[name] not in (value, entry.info["config"][name]):
            raise UserError(
                f"{entry.name}.{first} is {value!r} and {entry.name}.{name} is {node[name]!r}, "
                f"which are two names of one key; keep the second"
            )
        node[name] = value
    cfg.freeze()
    return cfg


def _add_node(cfg: CN, entry: Entry) -> None:
    """Adds the method's config node, or to a node that is there the keys it lacks.

    The first names of keys are there too, so that old files and command lines still merge; None
    says that nobody used them. A key for which mdistiller has one fixed meaning gets that one where
    the method is registered with it (`upstream`), so that mdistiller's yaml means what it meant.
    """
    first = dict.fromkeys(entry.info.get("renamed", {}))
    defaults = {**entry.info.get("config", {}), **entry.info.get("upstream", {})}
    frozen = cfg.is_frozen()
    cfg.defrost()
    _add_missing(cfg, {entry.name: {**defaults, **first}})
    if frozen:
        cfg.freeze()


def _add_trainer() -> None:
    engine = _import("mdistiller.engine")
    if TRAINER not in engine.trainer_dict:
        meter = _import("mdistiller.engine.utils").AverageMeter
        trainer = phased_trainer(engine.trainer_dict["base"], meter)
        names = (TRAINER, *_first_trainers())
        engine.trainer_dict.update(dict.fromkeys(names, trainer))


def _first_trainers() -> list[str]:
    """What the trainer of phases.py was called first."""
    names = RENAMED_VALUES["SOLVER.TRAINER"]
    return [first for first, today in names.items() if today == ("SOLVER.TRAINER", TRAINER)]


def _add_missing(node: CN, defaults: dict[str, Any]) -> None:
    for key, value in defaults.items():
        if key not in node:
            node[key] = CN(value) if isinstance(value, dict) else copy.copy(value)
        elif isinstance(value, dict):
            _add_missing(node[key], value)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name and error.name.partition(".")[0] == "mdistiller":
            raise UserError(
                f"{name} cannot be imported: no mdistiller on the path; start from its checkout, "
                "or use python -m sdkd_plugin run CHECKOUT/tools/train.py"
            ) from error
        raise UserError(
            f"mdistiller is there but {name} does not import ({error}); "
            "what its requirements forget: pip install scipy tqdm"
        ) from error

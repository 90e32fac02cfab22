"""The configuration: mdistiller's keys with mdistiller's names and defaults, ours beside them, one
node per method.
"""

import ast
import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import is_text
from sdkd_plugin.defaults import ALLOWED, DEFAULTS, RENAMED_VALUES
from sdkd_plugin.errors import UserError, shown, unknown
from sdkd_plugin.registry import DATASETS, METHODS
from sdkd_plugin.renames import both_names, renamed_keys, todays_value
from sdkd_plugin.strict_yaml import read_yaml

LARGEST = 2**63 - 1  # of whole numbers: what a tensor holds
MAX_EPOCHS = 1_000_000  # of one phase; a thousand times what anyone trains


def default_config() -> CN:
    """The whole tree with its defaults, each registered method's node included."""
    tree = copy.deepcopy(DEFAULTS)
    tree.update(
        {
            entry.name: copy.deepcopy(entry.info["config"])
            for entry in METHODS
            if "config" in entry.info
        }
    )
    return CN(tree)


def load_config(path: str | Path | None, overrides: Iterable[str] = ()) -> CN:
    """Defaults, then the yaml file, then `KEY VALUE` pairs; checked and frozen.

    Args:
        path: a yaml file, or None for the defaults alone.
        overrides: alternating dotted keys and values, such as `SOLVER.LR 0.01`.
    Raises:
        UserError: no such file, no valid yaml, an unknown key, a value of the wrong type or out of
            range.
    """
    cfg, renamed = default_config(), renamed_keys()
    if path is not None:
        _merge(cfg, read_config(path), "", _Source(str(path), renamed))
    tag, named = cfg.EXPERIMENT.TAG, cfg.DISTILLER.clone()
    command_line = _Source("the command line", renamed)
    for key, value in override_pairs(list(overrides)):
        tree: dict = {}
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
        _merge(cfg, tree, "", command_line)
    check_config(cfg)
    stale = named.TYPE != cfg.DISTILLER.TYPE or usual_tag(named) != usual_tag(cfg.DISTILLER)
    if stale and tag == cfg.EXPERIMENT.TAG != DEFAULTS["EXPERIMENT"]["TAG"]:
        cfg.EXPERIMENT.TAG = usual_tag(cfg.DISTILLER)  # a folder is named by what it holds
    cfg.freeze()
    return cfg


def usual_tag(node: CN) -> str:
    """The TAG of what a DISTILLER node says: method,teacher,student or, of a method without a
    teacher, method,student.
    """
    method = METHODS[node.TYPE].build
    names = [method.__module__.rpartition(".")[2], node.STUDENT]
    if method.teacher_from != "none":
        names.insert(1, node.TEACHER)
    return ",".join(names)


def check_config(cfg: CN) -> None:
    """Raises UserError for an unknown method or data set, or a value that its key does not allow:
    those of the shared nodes and of the chosen method's.
    """
    METHODS[cfg.DISTILLER.TYPE]
    DATASETS[cfg.DATASET.TYPE]
    flat = dict(flatten(cfg))
    for key, allowed in ALLOWED.items():
        allowed.check(key, flat[key])
    check_method(cfg, cfg.DISTILLER.TYPE)
    _check_epochs(cfg)


def _check_epochs(cfg: CN) -> None:
    """Raises UserError where a phase would have more epochs than anyone could wait for: to list
    them alone would fill the memory.
    """
    flat = dict(flatten(scaled_config(cfg)))
    for key in ("SOLVER.EPOCHS", "SOLVER.SCHEDULE_EPOCHS", *epoch_keys(cfg)):
        value = flat[key]
        if not isinstance(value, list) and value > MAX_EPOCHS:  # a list says when, not how many
            raise UserError(f"{key} is {shown(value)}, scaled; allowed: up to {MAX_EPOCHS} epochs")


def check_method(cfg: CN, name: str) -> None:
    """Raises UserError for a value that this method does not allow in its node, or for values that
    do not go together.
    """
    info = METHODS[name].info
    flat = dict(flatten(cfg.get(name, {})))
    for key, allowed in info.get("allowed", {}).items():
        allowed.check(f"{name}.{key}", flat[key])
    if "rule" in info:
        info["rule"](cfg)


def scaled_config(cfg: CN) -> CN:
    """The config the run uses: epoch-valued keys, written for SOLVER.SCHEDULE_EPOCHS, scaled to
    SOLVER.EPOCHS.
    """
    epochs = cfg.SOLVER.EPOCHS
    schedule = cfg.SOLVER.SCHEDULE_EPOCHS or epochs
    scaled = cfg.clone()
    scaled.defrost()
    if epochs != schedule:
        flat = dict(flatten(cfg))
        for key in epoch_keys(cfg):
            value = flat[key]
            many = isinstance(value, list)
            numbers = [scale_epochs(v, epochs, schedule) for v in (value if many else [value])]
            set_value(scaled, key, numbers if many else numbers[0])
    scaled.freeze()
    return scaled


def scale_epochs(value: float, epochs: int, schedule: int) -> float:
    """value * epochs / schedule, rounded once, at the end: an epoch that is whole comes out whole.

    In floats, 180 * (168 / 240) is 125.99999999999999, and the rate would fall in epoch 126 instead
    of after it.

    Args:
        value: epochs of a schedule of `schedule` epochs, as they are written in decimal.
        epochs: of the run.
    """
    return float(Fraction(str(value)) * epochs / schedule)


def epoch_keys(cfg: CN) -> list[str]:
    """Dotted names of the keys of this config that count epochs: the solver's and those its method
    declares.
    """
    entry = METHODS[cfg.DISTILLER.TYPE]
    return [
        "SOLVER.LR_DECAY_STAGES",
        *(f"{entry.name}.{key}" for key in entry.info.get("epoch_keys", ())),
    ]


def flatten(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) for every leaf of a config tree."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def set_value(cfg: CN, key: str, value: Any) -> None:
    """Sets the leaf with this dotted key."""
    *parents, leaf = key.split(".")
    node = cfg
    for parent in parents:
        node = node[parent]
    node[leaf] = value


def active_config(cfg: CN) -> dict[str, Any]:
    """What decides the result of a run, as a plain tree: the shared nodes and the chosen method's
    node, no other's.
    """
    methods = {entry.name for entry in METHODS} - {cfg.DISTILLER.TYPE}
    return {key: yaml.safe_load(node.dump()) for key, node in cfg.items() if key not in methods}


def configs_folder() -> Path:
    """Where configs/ lies: beside the package in a checkout, inside it where it was installed from
    a wheel.
    """
    package = Path(__file__).resolve().parent
    beside = package.parent / "configs"
    return beside if (beside / "cifar100").is_dir() else package / "configs"


def find_config(path: str | Path) -> Path:
    """Where a config lies: there, or in the package's own configs/, so that the documented commands
    work from a wheel and from a checkout of mdistiller.
    """
    path = Path(path)
    packaged = path.parts[:1] == ("configs",) and not path.exists()
    return configs_folder().parent / path if packaged else path


def read_config(path: str | Path) -> dict:
    """The tree in a config's yaml file, unchecked; one under configs/ is found from anywhere.

    Raises:
        UserError: what `read_yaml` refuses.
    """
    if not str(path):
        raise UserError(
            "--cfg is empty; give a yaml file such as configs/cifar100/sdkd/res56_res20.yaml"
        )
    return read_yaml(find_config(path), "config file", "see configs/ for those that exist")


def override_pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """KEY VALUE pairs of a command line. Raises UserError for an option among them or a last word
    without its partner.
    """
    misplaced = [word for word in overrides[::2] if word.startswith("-")]
    if misplaced:
        raise UserError(
            f"option {misplaced[0]} stands among the KEY VALUE overrides; options come before them"
        )
    if len(overrides) % 2:
        raise UserError(
            f"overrides come as KEY VALUE pairs; {overrides[-1]!r} has no partner in: "
            f"{' '.join(overrides)}"
        )
    yield from zip(overrides[::2], overrides[1::2], strict=True)


@dataclass
class _Source:
    """One place that settings come from, and what it has set so far: {key: (the name it used,
    value)}.
    """

    where: str
    renamed: dict[str, str]
    given: dict[str, tuple[str, Any]] = field(default_factory=dict)


def _merge(node: CN, tree: dict, prefix: str, source: _Source) -> None:
    for key, value in tree.items():
        spelled = f"{prefix}{key}"
        name = source.renamed.get(spelled, spelled)
        leaf = name.removeprefix(prefix)
        if leaf not in node:
            below = [key for key, _ in flatten(node, prefix)] if prefix else []
            known = {*(f"{prefix}{other}" for other in node), *below}
            raise unknown("config key", spelled, known, source.where)
        if isinstance(node[leaf], CN):
            if not isinstance(value, dict):
                raise UserError(
                    f"{spelled} in {source.where} is {shown(value)}; it is a node, with the keys "
                    f"{', '.join(node[leaf])}"
                )
            _merge(node[leaf], value, f"{name}.", source)
        else:
            value = _coerce(spelled, value, node[leaf], source.where)
            node[leaf] = todays_value(value, RENAMED_VALUES.get(name, {}))
            before, other = source.given.get(name, (spelled, value))
            if before != spelled and other != value:
                raise both_names({before: other, spelled: value}, source.where)
            source.given[name] = (spelled, value)


def _coerce(name: str, value: Any, default: Any, where: str) -> Any:
    """The value in its default's type: int becomes float, tuple becomes list; anything else must
    match already.
    """
    if isinstance(value, str) and not isinstance(default, str):
        value = _literal(value)
    if isinstance(value, tuple):
        value = list(value)
    _check_size(name, value, where)
    if type(default) is float and type(value) is int:
        return float(value)
    if type(default) is int and type(value) is float and value.is_integer():
        _check_size(name, int(value), where)
        return int(value)
    if type(value) is not type(default):
        raise UserError(
            f"{name} in {where} is {shown(value)} ({type(value).__name__}); allowed: "
            f"{type(default).__name__}, such as {default!r}"
        )
    return value


def _check_size(name: str, value: Any, where: str) -> None:
    """Raises UserError for what no file, tensor or clock could hold: a whole number beyond 64 bits,
    or text with a NUL or half a character.
    """
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, int) and abs(item) > LARGEST:
            raise UserError(
                f"{name} in {where} is {shown(value)}; allowed: whole numbers up to {LARGEST}"
            )
        if isinstance(item, str) and not is_text(item):
            raise UserError(f"{name} in {where} is {shown(value)}, which no file name could hold")


def _literal(text: str) -> Any:
    """The Python value that `text` spells, else `text`. As in yacs, yaml's too: there 5e-4 is text,
    for want of a dot.
    """
    try:
        return ast.literal_eval(text)
    # all that literal_eval is documented to raise
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text

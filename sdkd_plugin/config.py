"""The configuration: mdistiller's keys with mdistiller's names and defaults, ours beside them, one
node per method.
"""

import copy
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as CN

from sdkd_plugin.defaults import ALLOWED, DEFAULTS, DOT
from sdkd_plugin.errors import UserError, shown
from sdkd_plugin.registry import DATASETS, METHODS
from sdkd_plugin.renames import renamed_keys
from sdkd_plugin.settings import Source, flatten, merge, override_pairs
from sdkd_plugin.strict_yaml import read_yaml

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
        merge(cfg, _as_written(read_config(path), path), "", Source(str(path), renamed))
    tag, named = cfg.EXPERIMENT.TAG, cfg.DISTILLER.clone()
    command_line = Source("the command line", renamed)
    for key, value in override_pairs(list(overrides)):
        tree: dict = {}
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
        merge(cfg, tree, "", command_line)
    check_config(cfg)
    stale = named.TYPE != cfg.DISTILLER.TYPE or usual_tag(named) != usual_tag(cfg.DISTILLER)
    if stale and tag == cfg.EXPERIMENT.TAG != DEFAULTS["EXPERIMENT"]["TAG"]:
        cfg.EXPERIMENT.TAG = usual_tag(cfg.DISTILLER)  # a folder is named by what it holds
    cfg.freeze()
    return cfg


def _as_written(tree: dict, path: str | Path) -> dict:
    """What a file says; of an earlier version's run folder without LOG.WANDB, which had no effect
    then and stands in each.
    """
    log = tree.get("LOG")
    ours = Path(path).with_name("identity.json").exists()
    if ours and isinstance(log, dict) and "TRACKERS" not in log:
        return {**tree, "LOG": {key: value for key, value in log.items() if key != "WANDB"}}
    return tree


def usual_tag(node: CN) -> str:
    """The TAG of what a DISTILLER node says: method,teacher,student or, of a method without a
    teacher, method,student.
    """
    method = METHODS[node.TYPE].build
    names = [method.__module__.rpartition(".")[2], node.STUDENT]
    if method.teacher_from != "none":
        names.insert(1, node.TEACHER)
    return ",".join(names).replace(":", "-")  # which no Windows folder may have


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
    _check_dot(cfg)
    _check_views(cfg)
    _check_epochs(cfg)


def splits_gradients(solver: CN) -> bool:
    """Whether this SOLVER node asks for DOT, which keeps task and distillation apart."""
    return solver.OPTIMIZER == DOT


def whole_batch_reason(cfg: CN) -> str:
    """What of this config needs each batch whole, so that several processes cannot share it: the
    method, or a setting of it that it declares (`whole_batch_if`); "" if nothing does.
    """
    method = METHODS[cfg.DISTILLER.TYPE]
    if method.build.needs_whole_batch:
        return method.name
    flat = dict(flatten(cfg.get(method.name, {})))
    declared = method.info.get("whole_batch_if", {})
    settings = [f"{key} {value}" for key, value in declared.items() if flat[key] == value]
    return ", ".join(f"{method.name}.{setting}" for setting in settings)


def _check_dot(cfg: CN) -> None:
    """Raises UserError where DOT is asked for and cannot be had."""
    solver = cfg.SOLVER
    if not splits_gradients(solver):
        return
    method = METHODS[cfg.DISTILLER.TYPE]
    if not method.build.splits_losses:
        raise UserError(
            "SOLVER.OPTIMIZER is 'dot', which gives the gradients of loss_ce and loss_kd momenta "
            f"of their own, but {method.name} does not always have both, or acts on the momentum "
            "itself; allowed for it: sgd"
        )
    if solver.PRECISION == "fp16":
        raise UserError(
            "SOLVER.PRECISION is 'fp16', whose scaled gradients SOLVER.OPTIMIZER dot cannot keep "
            "apart; allowed with it: fp32, bf16"
        )
    momenta = (solver.MOMENTUM - solver.DOT.DELTA, solver.MOMENTUM + solver.DOT.DELTA)
    if not all(0 <= momentum <= 1 for momentum in momenta):
        raise UserError(
            f"SOLVER.DOT.DELTA is {solver.DOT.DELTA} and SOLVER.MOMENTUM {solver.MOMENTUM}; "
            "allowed: MOMENTUM - DELTA and MOMENTUM + DELTA from 0 to 1"
        )


def _check_views(cfg: CN) -> None:
    """Raises UserError where a method would not look at a view that is made, or lacks one."""
    method = METHODS[cfg.DISTILLER.TYPE]
    wanted = method.build.views
    if cfg.DATASET.VIEWS != wanted:
        raise UserError(
            f"DATASET.VIEWS is {cfg.DATASET.VIEWS}, but {method.name} looks at {wanted} of each "
            f"image; allowed for it: {wanted}"
        )
    if wanted == 2 and cfg.DATASET.TRANSFORM == "imagenet":
        raise UserError(
            "DATASET.TRANSFORM is imagenet, which makes one view of each image; allowed with "
            "DATASET.VIEWS 2: cifar, none"
        )


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

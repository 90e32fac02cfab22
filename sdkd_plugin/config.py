"""The configuration: mdistiller's keys with mdistiller's names and defaults, ours beside them, one
node per method.
"""

import ast
import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as CN

from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.registry import DATASETS, METHODS

# Keys in this tree that mdistiller has keep its defaults, traps included, so that its yaml files
# mean the same here.
DEFAULTS: dict[str, Any] = {
    "EXPERIMENT": {
        "PROJECT": "distill",
        "NAME": "",  # empty: made from TAG and a hash of the resolved config
        "TAG": "default",
    },
    "DATASET": {
        "TYPE": "cifar100",  # cifar100 | npz | imagefolder | digits
        "NUM_WORKERS": 2,  # decoding threads of imagefolder; other types live in memory already
        "TEST": {"BATCH_SIZE": 64},
        # below: not in mdistiller
        "ROOT": "./data",  # a folder; for npz the file itself
        "DOWNLOAD": True,  # cifar100 only
        "AUGMENT": "crop_flip",  # crop_flip | crop | none
        "MEAN": [],  # per channel, of pixel values in [0, 1]; empty: the data set's own
        "STD": [],
        "IMAGE_SIZE": 0,  # pixels, by area averaging; 0: as stored
        "SUBSET": 1.0,  # fraction of the training images kept, class-balanced
        "VAL_FRACTION": 0.0,  # held out of training and evaluated INSTEAD of the test images
    },
    "DISTILLER": {
        "TYPE": "NONE",
        "TEACHER": "ResNet50",
        "STUDENT": "resnet32",
        "TEACHER_CKPT": "",  # not in mdistiller; empty: mdistiller's place under download_ckpts/
    },
    "SOLVER": {
        # base | crd | phases; read by mdistiller only: here methods declare what they need
        "TRAINER": "base",
        "BATCH_SIZE": 64,
        "EPOCHS": 240,
        "LR": 0.05,
        # multiply LR by LR_DECAY_RATE after each of these epochs
        "LR_DECAY_STAGES": [150, 180, 210],
        "LR_DECAY_RATE": 0.1,
        "WEIGHT_DECAY": 0.0001,
        "MOMENTUM": 0.9,
        "TYPE": "SGD",
        "DOT": {"DELTA": 0.075},  # read by mdistiller's DOT trainer only
        # below: not in mdistiller
        "SCHEDULE_EPOCHS": 0,  # epochs for which epoch-valued keys are written; 0: EPOCHS
        "SEED": 0,
        "DEVICE": "auto",  # auto | cpu | cuda
        "PRECISION": "fp32",  # fp32 | bf16 | fp16
        "CHANNELS_LAST": True,
    },
    "LOG": {
        "TENSORBOARD_FREQ": 500,  # has no effect in mdistiller, nor here
        "SAVE_CHECKPOINT_FREQ": 40,  # epochs between kept checkpoints
        "PREFIX": "./output",
        "WANDB": True,  # read by mdistiller only; here there are metrics.csv and TensorBoard
    },
}

CHOICES = {
    "DATASET.AUGMENT": ("crop_flip", "crop", "none"),
    "SOLVER.TRAINER": ("base", "crd", "phases"),
    "SOLVER.TYPE": ("SGD",),
    "SOLVER.DEVICE": ("auto", "cpu", "cuda"),
    "SOLVER.PRECISION": ("fp32", "bf16", "fp16"),
}
# key: (smallest, largest); None is no bound
BOUNDS = {
    "DATASET.NUM_WORKERS": (0, None),
    "DATASET.TEST.BATCH_SIZE": (1, None),
    "DATASET.IMAGE_SIZE": (0, None),
    "DATASET.SUBSET": (1e-9, 1.0),
    "DATASET.VAL_FRACTION": (0.0, 0.999),
    "SOLVER.BATCH_SIZE": (1, None),
    "SOLVER.EPOCHS": (1, None),
    "SOLVER.SCHEDULE_EPOCHS": (0, None),
    "SOLVER.LR": (0.0, None),
    "SOLVER.LR_DECAY_RATE": (0.0, None),
    "SOLVER.WEIGHT_DECAY": (0.0, None),
    "SOLVER.MOMENTUM": (0.0, 1.0),
    "SOLVER.SEED": (0, None),
    "LOG.SAVE_CHECKPOINT_FREQ": (1, None),
}


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
    cfg = default_config()
    if path is not None:
        _merge(cfg, _read_yaml(path), "", str(path))
    for key, value in override_pairs(list(overrides)):
        tree: dict = {}
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
        _merge(cfg, tree, "", "the command line")
    check_config(cfg)
    cfg.freeze()
    return cfg


def check_config(cfg: CN) -> None:
    """Raises UserError for a value outside its choices or bounds, or an unknown method or data
    set.
    """
    METHODS[cfg.DISTILLER.TYPE]
    DATASETS[cfg.DATASET.TYPE]
    flat = dict(flatten(cfg))
    for key, choices in CHOICES.items():
        if flat[key] not in choices:
            raise unknown("value", flat[key], choices, key)
    for key, (low, high) in BOUNDS.items():
        if not (low is None or flat[key] >= low) or not (high is None or flat[key] <= high):
            raise UserError(
                f"{key} is {flat[key]}; allowed: from {low} to {'any' if high is None else high}"
            )
    for key in ("DATASET.MEAN", "DATASET.STD"):
        if flat[key] and (
            len(flat[key]) != 3
            or not all(isinstance(v, (int, float)) for v in flat[key])
            or (key.endswith("STD") and min(flat[key]) <= 0)
        ):
            raise UserError(
                f"{key} is {flat[key]}; allowed: three numbers, one per channel (STD: above 0), or "
                f"[] for the data set's own"
            )
    if not all(type(phase) in (int, float) for phase in cfg.SOLVER.LR_DECAY_STAGES):
        raise UserError(
            f"SOLVER.LR_DECAY_STAGES is {cfg.SOLVER.LR_DECAY_STAGES}; allowed: epochs, such as "
            f"[150, 180, 210]"
        )


def scaled_config(cfg: CN) -> CN:
    """The config the run uses: epoch-valued keys, written for SOLVER.SCHEDULE_EPOCHS, scaled to
    SOLVER.EPOCHS.
    """
    ratio = cfg.SOLVER.EPOCHS / (cfg.SOLVER.SCHEDULE_EPOCHS or cfg.SOLVER.EPOCHS)
    scaled = cfg.clone()
    scaled.defrost()
    if ratio != 1:
        for key in epoch_keys(cfg):
            *parents, leaf = key.split(".")
            node = scaled
            for parent in parents:
                node = node[parent]
            node[leaf] = (
                [v * ratio for v in node[leaf]]
                if isinstance(node[leaf], list)
                else node[leaf] * ratio
            )
    scaled.freeze()
    return scaled


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


def _read_yaml(path: str | Path) -> dict:
    if not str(path):
        raise UserError(
            "--cfg is empty; give a yaml file such as configs/cifar100/sdkd/res56_res20.yaml"
        )
    if (
        not Path(path).exists() and Path(path).parts[0] == "configs"
    ):  # so that the documented commands work from a wheel
        path = configs_folder().parent / path
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UserError(
            f"config file {str(path)!r} cannot be read: {error.strerror}; see configs/ for those "
            f"that exist"
        ) from error
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # ValueError: bytes that are no UTF-8, a date that is none
        raise UserError(
            f"config file {str(path)!r} is no valid yaml: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(tree, dict):
        raise UserError(
            f"config file {str(path)!r} holds {type(tree).__name__}, not a tree of keys"
        )
    return tree


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


def _merge(node: CN, tree: dict, prefix: str, where: str) -> None:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in node:
            known = {f"{prefix}{other}" for other in node} | {
                leaf for leaf, _ in flatten(node, prefix)
            }
            raise unknown(
                "config key",
                name,
                known if prefix else known - {leaf for leaf in known if "." in leaf},
                where,
            )
        if isinstance(node[key], CN):
            if not isinstance(value, dict):
                raise UserError(
                    f"{name} in {where} is {value!r}; it is a node, with the keys "
                    f"{', '.join(node[key])}"
                )
            _merge(node[key], value, f"{name}.", where)
        else:
            node[key] = _coerce(name, value, node[key], where)


def _coerce(name: str, value: Any, default: Any, where: str) -> Any:
    """The value in its default's type: int becomes float, tuple becomes list; anything else must
    match already.
    """
    if isinstance(value, str) and not isinstance(default, str):
        value = _literal(value)
    if isinstance(value, tuple):
        value = list(value)
    if type(default) is float and type(value) is int:
        return float(value)
    if type(default) is int and type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not type(default):
        raise UserError(
            f"{name} in {where} is {value!r} ({type(value).__name__}); allowed: "
            f"{type(default).__name__}, such as {default!r}"
        )
    return value


def _literal(text: str) -> Any:
    """The Python value that `text` spells, else `text`. As in yacs, yaml's too: there 5e-4 is text,
    for want of a dot.
    """
    try:
        return ast.literal_eval(text)
    except (
        ValueError,
        SyntaxError,
        TypeError,
        MemoryError,
        RecursionError,
    ):  # all that literal_eval is documented to raise
        return text

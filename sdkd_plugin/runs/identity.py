"""What decides a run's result: its config, and data, teacher and files by content."""

from typing import Any

from yacs.config import CfgNode as CN

from sdkd_plugin.config import active_config
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import sha256
from sdkd_plugin.idle import idle_keys
from sdkd_plugin.registry import METHODS
from sdkd_plugin.runs.names import LATER, LATER_IN_METHODS
from sdkd_plugin.settings import flatten

# Keys that do not decide the result, or do so only through content that the identity names by its
# hash.
NOT_IDENTITY = (
    "EXPERIMENT.",
    "LOG.",
    "DATASET.ROOT",
    "DATASET.DOWNLOAD",
    "DATASET.NUM_WORKERS",
    "DATASET.CLASSES",
    "DATASET.TEST.",
    "DATASET.CACHE",
    "DATASET.DECODE",
    "DATASET.BROKEN",
    "DISTILLER.TEACHER_CKPT",
    "SOLVER.DEVICE",
    "SOLVER.THREADS",
)


def run_identity(cfg: CN, data: dict[str, Any], teacher: str | None) -> dict[str, Any]:
    """What decides a run's result, flat: every config key that matters, and data, teacher and files
    by the hash of their content.

    Args:
        data: from `data_identity`.
        teacher: hash of its checkpoint, or None.
    Raises:
        UserError: a file that a method's config key names cannot be read.
    """
    idle = idle_keys(cfg.SOLVER.OPTIMIZER)
    method = METHODS[cfg.DISTILLER.TYPE]
    later = {**LATER, **{f"{method.name}.{key}": v for key, v in LATER_IN_METHODS.items()}}
    flat = {
        key: value
        for key, value in flatten(active_config(cfg))
        if not key.startswith(NOT_IDENTITY)
        and key not in idle
        and not (key in later and value == later[key])
    }

    for name in method.info.get("file_keys", ()):
        key = f"{method.name}.{name}"
        try:
            flat[key] = sha256(flat[key]) if flat[key] else ""
        except OSError as error:
            raise UserError(
                f"{key} is {flat[key]!r}, which cannot be read: {error.strerror}"
            ) from error

    if method.build.teacher_from == "none":
        # a method without a teacher is the same run whatever the yaml names
        del flat["DISTILLER.TEACHER"]
    return {**flat, **data, "teacher": teacher}


def data_identity(dataset: Dataset) -> dict[str, Any]:
    """What the data add to a run's identity: their content, and what normalises them, resolved."""
    constants: dict[str, Any] = {
        "DATASET.MEAN": list(dataset.mean),
        "DATASET.STD": list(dataset.std),
    }
    if dataset.num_classes != int(dataset.train.targets.max()) + 1:
        # labels do not tell how many outputs the network has
        constants["DATASET.CLASSES"] = dataset.num_classes
    return {**constants, "data": dataset.fingerprint}


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """One line: every key whose value differs, as `KEY: here -> in the folder`."""
    keys = sorted(ours.keys() | theirs.keys())
    return "; ".join(
        f"{k}: {ours.get(k)!r} -> {theirs.get(k)!r}" for k in keys if ours.get(k) != theirs.get(k)
    )

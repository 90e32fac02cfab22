"""Settings that change nothing here: mdistiller reads them, and so its yaml files have them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from sdkd_plugin.config import configs_folder, default_config, read_config
from sdkd_plugin.defaults import DELTA, DOT, OPTIMIZER, TRAINER, todays_setting
from sdkd_plugin.registry import METHODS
from sdkd_plugin.renames import current_names
from sdkd_plugin.settings import flatten, override_pairs

# Beside these the keys that a method registers as `idle`: {key: what its shipped files say, as a
# function of the config; None for the default}.
SHARED = ("LOG.TENSORBOARD_FREQ", TRAINER)


def idle_keys(optimizer: str = "sgd") -> set[str]:
    """Every key without effect under this SOLVER.OPTIMIZER, dotted."""
    own = {f"{entry.name}.{key}" for entry in METHODS for key in entry.info.get("idle", {})}
    return {*_shared(optimizer), *own}


def _shared(optimizer: Any) -> tuple[str, ...]:
    return SHARED if optimizer == DOT else (*SHARED, DELTA)


def todays_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A run's identity as any version wrote it, with today's names and without idle keys."""
    current = current_names(dict(identity))
    idle = idle_keys(current.get(OPTIMIZER, ""))
    return {key: v for key, v in current.items() if key not in idle}


def usual_values(cfg: CN) -> dict[str, Any]:
    """{key: value} of the idle keys that concern this config's method, as the files that ship have
    them, whatever this config says: the names of run folders were made of them.
    """
    method = METHODS[cfg.DISTILLER.TYPE]
    defaults = dict(flatten(default_config()))
    usual = {key: defaults[key] for key in _shared(cfg.SOLVER.OPTIMIZER)}
    usual[TRAINER] = method.info.get("trainer", "base")
    if cfg.SOLVER.OPTIMIZER == DOT:
        del usual[TRAINER]  # what OPTIMIZER dot was called first
    for key, value in method.info.get("idle", {}).items():
        name = f"{method.name}.{key}"
        found = value(cfg) if value else None
        usual[name] = defaults[name] if found is None else found
    return usual


def idle_note(path: str | Path | None, overrides: Iterable[str]) -> str | None:
    """A line that names the idle keys which a user has set; None if there are none.

    The yaml files that ship, and the config.yaml of a run, set them for mdistiller's sake.

    Args:
        path: the yaml file, or None.
        overrides: KEY VALUE pairs.
    """
    in_file = {} if path is None else _settings(flatten(read_config(path)))
    in_words = _settings(override_pairs(list(overrides)))
    given = {*in_words} if path is None or _is_ours(Path(path)) else {*in_file, *in_words}
    optimizer = {**in_file, **in_words}.get(OPTIMIZER, "")
    found = sorted(given & idle_keys(optimizer))
    if not found:
        return None
    return f"note: without effect here, read by mdistiller only: {', '.join(found)}"


def _settings(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return dict(todays_setting(*pair) for pair in pairs)


def _is_ours(path: Path) -> bool:
    shipped = configs_folder().resolve()
    return (
        not path.exists()  # found among those that ship
        or shipped in path.resolve().parents
        or (path.parent / "identity.json").exists()
    )

"""The sweep file: what stands in it, checked before anything is made of it.

methods: [vanilla, kd, mine/configs]      folders under configs/cifar100/; with a /, any folder
pairs: [res56_res20, resnet14/resnet8]    files there, or TEACHER/STUDENT, any two models; vanilla
                                          trains the pair's student
seeds: [0, 1, 2]
overrides: {SOLVER.EPOCHS: 12}            any config keys, for every run
variants:                                 optional, by method: label -> config keys
  sdkd:                                   each label is a run of its own
    full: {}
    no mutual: {SDKD.LOSS.MUTUAL_WEIGHT: 0.0}
teachers: {resnet56: teacher.pth}         optional; else mdistiller's place, and where none is
                                          there, trained first (seed 0)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdkd_plugin.errors import UserError, shown, unknown
from sdkd_plugin.settings import override_pairs
from sdkd_plugin.strict_yaml import read_yaml

KEYS: dict[str, type] = {
    "methods": list,
    "pairs": list,
    "seeds": list,
    "overrides": dict,
    "variants": dict,
    "teachers": dict,
}
NEEDED = ("methods", "pairs", "seeds")
NAME_LENGTH = 200  # of a method, pair or label: it becomes part of a log file's name
Settings = dict[str, str]  # config key -> value, as on the command line


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says, and the command line's overrides with it.

    Args:
        overrides: for every run.
        variants: by method and label, what this run has on top of that; a method that is not in it
            has one run, without a label.
        teachers: by model, its checkpoint.
    """

    path: Path
    methods: list[str]
    pairs: list[str]
    seeds: list[int]
    overrides: Settings = field(default_factory=dict)
    variants: dict[str, dict[str, Settings]] = field(default_factory=dict)
    teachers: dict[str, str] = field(default_factory=dict)


def read_sweep_file(path: Path, overrides: tuple[str, ...] = ()) -> SweepFile:
    """Reads and checks a sweep file; `overrides` are KEY VALUE pairs, after the file's own.

    Raises:
        UserError: unreadable, an unknown key, a key that is missing or of the wrong kind, a name
            that is none, a seed that is no whole number from 0, variants of a method that is not in
            the file.
    """
    # a key that nothing is written after is one that was not written
    tree = {
        key: value
        for key, value in read_yaml(path, "sweep file", "configs/sweeps/ has examples").items()
        if value is not None or key not in KEYS
    }
    for key, value in tree.items():
        if key not in KEYS:
            raise unknown("sweep key", key, KEYS, str(path))
        if not isinstance(value, KEYS[key]):
            raise UserError(f"{key} in {path} is {shown(value)}; allowed: a {KEYS[key].__name__}")
    lacking = [key for key in NEEDED if not tree.get(key)]
    if lacking:
        raise UserError(f"sweep file {path} has no {', '.join(lacking)}")

    methods = read_names(tree["methods"], f"methods in {path}")
    own = read_settings(tree.get("overrides", {}), f"overrides in {path}")
    return SweepFile(
        path,
        methods,
        read_names(tree["pairs"], f"pairs in {path}"),
        read_seeds(tree["seeds"], path),
        {**own, **dict(override_pairs(overrides))},
        _variants(tree.get("variants", {}), methods, path),
        _teachers(tree.get("teachers", {}), path),
    )


def _once(items: list[Any], check: Callable[[Any], Any]) -> list[Any]:
    return list(dict.fromkeys(check(item) for item in items))


def read_names(items: list[Any], where: str) -> list[str]:
    return _once(items, lambda item: _name(item, where))


def _name(item: Any, where: str) -> str:
    if not isinstance(item, str) or not item:
        raise UserError(f"{where}: {shown(item)} is no name; allowed: text")
    if len(item) > NAME_LENGTH or not item.isprintable():
        raise UserError(
            f"{where}: {shown(item)}; allowed: up to {NAME_LENGTH} characters in one line"
        )
    return item


def read_seeds(items: list[Any], path: Path) -> list[int]:
    def check(item: Any) -> int:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < 2**63:
            raise UserError(
                f"seeds in {path}: {shown(item)}; allowed: whole numbers from 0, below 2^63"
            )
        return item

    return _once(items, check)


def read_settings(tree: Any, where: str) -> Settings:
    """{config key: value as on the command line}; the keys themselves are checked with the config
    they go to.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{where}: {shown(tree)}; allowed: config keys and values, or {{}}")
    settings = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            inner = next(iter(value), "KEY")
            raise UserError(
                f"{where}: {key} is {shown(value)}; write its keys in full, as in {key}.{inner}"
            )
        if value is None:
            raise UserError(f"{where}: {key} has no value")
        settings[_name(key, where)] = str(value)
    list(override_pairs([word for pair in settings.items() for word in pair]))  # none is an option
    return settings


def _variants(tree: dict[Any, Any], methods: list[str], path: Path) -> dict[str, dict]:
    variants: dict[str, dict[str, Settings]] = {}
    for method, labels in tree.items():
        if method not in methods:
            raise unknown("method", method, methods, f"variants of {path}")
        where = f"variants of {method} in {path}"
        if not isinstance(labels, dict) or not labels:
            raise UserError(f"{where}: {shown(labels)}; allowed: labels, each with its config keys")
        named = variants[method] = {}
        for given, settings in labels.items():
            if given is None or isinstance(given, bool):
                raise UserError(f"{where}: {shown(given)} is no label; quote it")
            label = _name(str(given), where)
            if label in named:  # 1 and "1"
                raise UserError(f"{where}: the label {label!r} stands there twice")
            # a label that nothing is written after changes nothing
            named[label] = read_settings({} if settings is None else settings, f"{where}, {label}")
    return variants


def _teachers(tree: dict[Any, Any], path: Path) -> dict[str, str]:
    for name, file in tree.items():
        if not isinstance(file, str) or not Path(file).is_file():
            raise UserError(f"teachers in {path}: {name} is {shown(file)}, which is no file")
    return tree

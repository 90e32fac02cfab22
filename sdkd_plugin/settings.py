"""Settings on their way into the config: from yaml and the command line, by type and size."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import is_text
from sdkd_plugin.defaults import todays_setting
from sdkd_plugin.errors import UserError, shown, unknown
from sdkd_plugin.renames import both_names

LARGEST = 2**63 - 1  # of whole numbers: what a tensor holds

# {KEY: value}, or KEY VALUE words as on a command line
Overrides = Mapping[str, Any] | Sequence[str]


def flatten(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) for every leaf of a config tree."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


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


def override_words(overrides: Overrides) -> list[str]:
    """The KEY VALUE words of a command line that say what `overrides` do."""
    if isinstance(overrides, str):
        raise UserError(
            f"overrides are {overrides!r}; allowed: a dict, such as {{'SOLVER.LR': 0.1}}, or a list"
        )
    if isinstance(overrides, Mapping):
        return [str(word) for pair in overrides.items() for word in pair]
    return [str(word) for word in overrides]


@dataclass
class Source:
    """One place that settings come from, and what it has set so far: {key: (the name it used,
    value)}.
    """

    where: str
    renamed: dict[str, str]
    given: dict[str, tuple[str, Any]] = field(default_factory=dict)


def merge(node: CN, tree: dict, prefix: str, source: Source) -> None:
    """Sets what a tree of settings says in a node of the config.

    Args:
        prefix: the node's dotted place, with a dot behind it unless it is the root.
    Raises:
        UserError: an unknown key, a value of another type, or a setting under both of its names.
    """
    for key, value in tree.items():
        spelled = f"{prefix}{key}"
        name, value = todays_setting(source.renamed.get(spelled, spelled), value)
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
            merge(node[leaf], value, f"{name}.", source)
        else:
            value = node[leaf] = _coerce(spelled, value, node[leaf], source.where)
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
    if isinstance(value, str) and isinstance(default, list):
        value = _names(value)
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


def _names(text: str) -> Any:
    """The words in brackets, [mlflow, wandb], as a yaml file has them; else `text`."""
    words = re.fullmatch(r"\s*\[([\w ,-]*)\]\s*", text)
    return [word.strip() for word in words[1].split(",")] if words else text


def _literal(text: str) -> Any:
    """The Python value that `text` spells, else `text`. As in yacs, yaml's too: there 5e-4 is text,
    for want of a dot.
    """
    try:
        return ast.literal_eval(text)
    # all that literal_eval is documented to raise
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text

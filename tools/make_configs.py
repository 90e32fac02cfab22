"""`python tools/make_configs.py` writes configs/cifar100 from configs/protocol.yaml, which says how
to read it, and configs/imagenet from configs/protocol_imagenet.yaml; `--check` only says what
differs.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.files import write_text
from sdkd_plugin.strict_yaml import read_yaml

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
WRITTEN = "# Written by sdkd_plugin's tools/make_configs.py"
HEADER = f"{WRITTEN}: edit configs/protocol.yaml, not this.\n"
PROTOCOLS = {"protocol.yaml": "cifar100", "protocol_imagenet.yaml": "imagenet"}
ALONE = "vanilla"  # the method that has a file for each model instead of each pair
NETWORKS = ("teacher", "student")
SHARED_FACTS = ("channels", "sizes")  # a choice can go by whether both networks' are equal
ROLES = (*NETWORKS, "pair", *SHARED_FACTS)


@dataclass(frozen=True)
class Protocol:
    """What protocol.yaml says, checked.

    Args:
        path: of the file, for messages.
        shared: the config tree of every file; a value may be a choice.
        models: facts by name of the model.
        pairs: (teacher, student) by file name.
        additions: config tree by method, merged over `shared`.
        refuses: whether a method cannot train a pair, by method; True, False or a choice.
    """

    path: Path
    shared: dict[str, Any]
    models: dict[str, dict[str, Any]]
    pairs: dict[str, tuple[str, str]]
    additions: dict[str, dict[str, Any]]
    refuses: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done or nothing differs, 1 something differs, 2 a user's error."""
    parser = argparse.ArgumentParser(description="Writes configs/ from its protocol files.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it would")
    parser.add_argument("--protocol", type=Path, help="this one alone (default: configs/*.yaml)")
    parser.add_argument("--folder", type=Path, help="for it (default: configs/cifar100)")
    options = parser.parse_args(arguments)

    pairs = {CONFIGS / name: CONFIGS / folder for name, folder in PROTOCOLS.items()}
    if options.protocol or options.folder:
        first = CONFIGS / "protocol.yaml"
        pairs = {options.protocol or first: options.folder or pairs[first]}
    try:
        made = {folder: make_configs(read_protocol(path)) for path, folder in pairs.items()}
        act = check if options.check else write
        return max([act(folder, texts) for folder, texts in made.items()])
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def make_configs(protocol: Protocol) -> dict[str, str]:
    """Text of every config file, by its path "method/file.yaml".

    Raises:
        UserError: a choice has no value for one of the pairs.
    """
    texts = {}
    header = HEADER.replace("protocol.yaml", protocol.path.name)
    for method, addition in protocol.additions.items():
        pairs = protocol.pairs
        if method == ALONE:
            pairs = {model: (model, model) for model in protocol.models}

        for pair, (teacher, student) in pairs.items():
            names = {"pair": pair, "teacher": teacher, "student": student}
            where = f"{method}/{pair}"
            refused = _resolved(protocol.refuses[method], names, protocol, f"{where}: refuses")
            if not isinstance(refused, bool):
                raise UserError(
                    f"{where}: refuses is {refused!r} in {protocol.path}; allowed: True, False"
                )
            if refused:
                continue
            tree = _merged(protocol.shared, _identity(method, teacher, student))
            tree = _resolved(_merged(tree, addition), names, protocol, where)
            texts[f"{method}/{pair}.yaml"] = header + "".join(_lines(tree))
    return texts


def check(folder: Path, texts: dict[str, str]) -> int:
    """Prints a line for each file that differs, is missing or that nothing generates; 1 if any."""
    found = _found(folder)
    lines = [f"{folder / path}: nothing generates it" for path in sorted({*found} - {*texts})]
    for path, text in texts.items():
        if path not in found:
            lines.append(f"{folder / path}: missing")
        elif found[path] != text.encode():
            lines.append(f"{folder / path}: differs from what is generated")
    if lines:
        print("\n".join(lines))
    return 1 if lines else 0


def write(folder: Path, texts: dict[str, str]) -> int:
    """Writes what differs and removes what was generated once and is no more, a line for each; a
    file that somebody wrote by hand is only named, and the result then 1.
    """
    found, kept = _found(folder), 0
    for path, text in texts.items():
        if found.get(path) != text.encode():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_text(folder / path, text)
            print(f"{folder / path}: written")

    for path in sorted({*found} - {*texts}):
        stale = folder / path
        if not found[path].startswith(WRITTEN.encode()):
            print(f"{stale}: nothing generates it, nor was it generated; move it elsewhere")
            kept = 1
            continue
        stale.unlink()
        print(f"{stale}: removed")
        if not any(stale.parent.iterdir()):
            stale.parent.rmdir()  # a folder is a method for sweeps
    return kept


def read_protocol(path: Path) -> Protocol:
    """Reads and checks a protocol file.

    Raises:
        UserError: unreadable, a key, model, pair or choice that does not exist, or a value of the
            wrong kind.
    """
    tree = read_yaml(path, "protocol", "see configs/protocol.yaml")
    parts = ("protocol", "models", "pairs", "methods")
    for part in _block(tree, str(path)):
        if part not in parts:
            raise unknown("key", part, parts, str(path))
    shared, models, pairs, methods = (_block(tree.get(p), f"{p} in {path}") for p in parts)

    for pair, names in pairs.items():
        if not isinstance(names, list) or [type(name) for name in names] != [str, str]:
            raise UserError(f"pair {pair} in {path} is {names!r}; allowed: [teacher, student]")
    refuses = {}
    for method, addition in methods.items():
        refuses[method] = _block(addition, f"method {method} in {path}").pop("refuses", False)

    protocol = Protocol(path, shared, models, pairs, methods, refuses)
    _check_names(protocol)
    return protocol


def _check_names(protocol: Protocol) -> None:
    """Raises UserError for a name that a line of the protocol uses and no line introduces."""
    for model, facts in protocol.models.items():
        _block(facts, f"model {model} in {protocol.path}")
    for pair, names in protocol.pairs.items():
        for name in names:
            if name not in protocol.models:
                raise unknown("model", name, protocol.models, f"pair {pair} in {protocol.path}")

    _check_choices(protocol.shared, protocol, "protocol")
    for method, addition in protocol.additions.items():
        where = f"method {method} in {protocol.path}"
        nodes = (*protocol.shared, _type(method, addition), "refuses")
        for node in addition:
            if node not in nodes:
                raise unknown("key", node, nodes, where)
        _check_choices({**addition, "refuses": protocol.refuses[method]}, protocol, where)


def _check_choices(tree: dict[str, Any], protocol: Protocol, where: str) -> None:
    for key, value in tree.items():
        if not isinstance(value, dict):
            continue
        if not _is_choice(value):
            _check_choices(value, protocol, where)
            continue
        rule, *others = value
        kind, _, role = rule.partition(" ")
        roles, last = (ROLES, ["else"]) if kind == "by" else (NETWORKS, [])
        if role not in roles or others not in ([], last):
            raise UserError(
                f"{key} of {where} is {value}; allowed: {{by {', '.join(ROLES)}: values, else: "
                f"value}} or {{of {', '.join(NETWORKS)}: fact}}"
            )
        if kind == "by":
            known = protocol.pairs if role == "pair" else protocol.models
            known = ("equal", "unequal") if role in SHARED_FACTS else known
            for name in _block(value[rule], f"{rule!r} in {key} of {where}"):
                if name not in known:
                    raise unknown(role, name, known, f"{key} of {where}")


def _block(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{where} is {value!r}; allowed: a tree of keys that are text")
    return value


def _is_choice(tree: dict[str, Any]) -> bool:
    return any(key.startswith(("by ", "of ")) for key in tree)


def _identity(method: str, teacher: str, student: str) -> dict[str, Any]:
    names = [student]
    if method != ALONE:
        libraries = [name.rpartition(":")[2] for name in (teacher, student)]
        names = [re.sub("^resnet", "res", name) for name in libraries]
    return {
        "EXPERIMENT": {"TAG": ",".join([method, *names])},
        "DISTILLER": {"TYPE": method.upper(), "TEACHER": teacher, "STUDENT": student},
    }


def _type(method: str, addition: dict[str, Any]) -> str:
    """The method's registered name, which its config node has too."""
    return _merged(_identity(method, "", ""), addition)["DISTILLER"]["TYPE"]


def _merged(tree: dict[str, Any], addition: dict[str, Any]) -> dict[str, Any]:
    """A tree of both; where both have a value, the addition's."""
    merged = dict(tree)
    for key, value in addition.items():
        both = isinstance(value, dict) and isinstance(tree.get(key), dict)
        merged[key] = _merged(tree[key], value) if both and not _is_choice(value) else value
    return merged


def _resolved(value: Any, names: dict[str, str], protocol: Protocol, where: str) -> Any:
    """The value with every choice made for one teacher-student pair."""
    if not isinstance(value, dict):
        return value
    if not _is_choice(value):
        return {
            key: _resolved(inner, names, protocol, f"{where}: {key}")
            for key, inner in value.items()
        }

    rule = next(iter(value))
    kind, role = rule.split(" ")
    if kind == "of":
        return _fact(value[rule], names[role], protocol, where)
    if role in SHARED_FACTS:
        teacher, student = (_fact(role, names[net], protocol, where) for net in NETWORKS)
        name = "equal" if teacher == student else "unequal"
    else:
        name = names[role]
    if name not in value[rule] and "else" not in value:
        raise UserError(
            f"{where} in {protocol.path} has no value for {role} {name}; add one to {rule!r}"
        )
    return value[rule].get(name, value.get("else"))


def _fact(fact: str, model: str, protocol: Protocol, where: str) -> Any:
    facts = protocol.models[model]
    if fact not in facts:
        raise unknown("fact", fact, facts, f"{where} of model {model} in {protocol.path}")
    return facts[fact]


def _lines(tree: dict[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if not isinstance(value, dict):
            yield f"{indent}{key}: {_scalar(value)}\n"
        elif value:
            yield f"{indent}{key}:\n"
            yield from _lines(value, indent + "  ")


def _scalar(value: Any) -> str:
    """A string in quotes, as in mdistiller's files; else yaml's own spelling, lists on one line."""
    if isinstance(value, str):
        return json.dumps(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("...\n").rstrip()


def _found(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.yaml")
    }


if __name__ == "__main__":
    sys.exit(main())

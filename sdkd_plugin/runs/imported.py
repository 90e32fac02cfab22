"""Code from outside, as runs record it: whether what is here is still what a run was made with.

It is no part of a run's identity: a comment may have changed. So whoever goes on with a run, or
compares several, is told. Torch is not needed here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_object, write_json
from sdkd_plugin.plugins import describe_plugins
from sdkd_plugin.printable import printable
from sdkd_plugin.runs.valid import check_environment

FILE = "environment.json"
DIGITS = 8  # of a hash, as people compare them
ABSENT = "not imported"


def recorded_environment(folder: Path) -> dict[str, Any]:
    """What a run's environment.json says; empty where there is none.

    Raises:
        UserError: it is torn, or holds what cannot be.
    """
    environment = read_object(folder / FILE) or {}
    try:
        check_environment(environment)
    except UserError as error:
        raise UserError(
            f"{folder / FILE}: {error}; remove the run folder or restore the file"
        ) from error
    return environment


def code_of(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each module from outside and the first digits of its file's hash; of one that changed while
    the run was made, all there were, in order.
    """
    plugins = environment.get("plugins") or ()
    return [(each["module"], (each["sha256"] or "no file")[:DIGITS]) for each in plugins]


def changed_code(recorded: Mapping[str, Any], finished: bool = False) -> str:
    """`FILE OLD -> NEW` of every module from outside that is another here than a run had last; ""
    if none is, or if nothing is recorded.

    Args:
        recorded: the run's environment.
        finished: what was imported only then or only now does not matter any more.
    """
    if recorded.get("plugins") is None:
        return ""
    here = describe_plugins()
    names = {each["module"]: each.get("given") for each in (*recorded["plugins"], *here)}
    old, new = dict(code_of(recorded)), dict(code_of({"plugins": here}))
    told = [
        f"{names[module] or module} {old.get(module, ABSENT)} -> {new.get(module, ABSENT)}"
        for module in sorted(old.keys() & new.keys() if finished else names)
        if old.get(module) != new.get(module)
    ]
    return printable(", ".join(told))


def add_changed_code(folder: Path, epoch: int) -> list[dict[str, Any]]:
    """Adds to a run's environment.json the modules from outside that are others from `epoch` on,
    counted over all phases; returns all that stand there then.
    """
    recorded = recorded_environment(folder)
    here: list[dict[str, Any]] = [*describe_plugins()]
    if recorded.get("plugins") is None:
        return here
    before = {each["module"]: each["sha256"] for each in recorded["plugins"]}
    changed = [each for each in here if before.get(each["module"], "") != each["sha256"]]
    plugins = [*recorded["plugins"], *({**each, "from_epoch": epoch} for each in changed)]
    if changed:
        write_json(folder / FILE, {**recorded, "plugins": plugins})
    return plugins

"""The study file that `align` reads.

teachers: [resnet110, vgg13]              the first is the reference; or {resnet110: FILE, ...},
                                          where an empty FILE is mdistiller's place
students: [vgg8, resnet20]                each is distilled from each teacher
seeds: [0, 1, 2]
overrides: {SOLVER.EPOCHS: 12}            optional, as in a sweep file
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdkd_plugin.config import find_config
from sdkd_plugin.errors import UserError, shown, unknown
from sdkd_plugin.registry import MODELS
from sdkd_plugin.settings import override_pairs
from sdkd_plugin.strict_yaml import read_yaml
from sdkd_plugin.sweep.file import Settings, read_names, read_seeds, read_settings

KEYS = ("teachers", "students", "seeds", "overrides")
OWN = ("DISTILLER.", "KD.TEMPERATURE", "SOLVER.SEED")  # config keys that the study sets itself


@dataclass(frozen=True)
class Study:
    """What a study file says, and the command line's overrides with it.

    Args:
        teachers: file by model, the reference first; "" where it is not named.
        overrides: config keys for every run.
    """

    path: Path
    teachers: dict[str, str]
    students: list[str]
    seeds: list[int]
    overrides: Settings = field(default_factory=dict)


def read_study(path: Path, overrides: tuple[str, ...] = (), files: tuple[str, ...] = ()) -> Study:
    """Reads and checks a study file.

    Args:
        overrides: KEY VALUE pairs, after the file's own.
        files: where teachers lie, as MODEL=FILE, before what the file says.
    Raises:
        UserError: unreadable, an unknown key or model, a key that is missing or of the wrong kind,
            fewer than two teachers, or a file of a teacher that does not exist.
    """
    tree = read_yaml(find_config(path), "study file", "configs/studies/ has examples")
    for key in tree:
        if key not in KEYS:
            raise unknown("study key", key, KEYS, str(path))
    lacking = [key for key in KEYS[:3] if not tree.get(key)]
    if lacking:
        raise UserError(f"study file {path} has no {', '.join(lacking)}")
    for key in ("students", "seeds"):
        if not isinstance(tree[key], list):
            raise UserError(f"{key} in {path} is {shown(tree[key])}; allowed: a list")

    teachers = _teachers(tree["teachers"], files, path)
    students = read_names(tree["students"], f"students in {path}")
    for kind, names in (("teachers", teachers), ("students", students)):
        for name in names:
            MODELS.find(name, f"{kind} of {path}")
    own = read_settings(tree.get("overrides") or {}, f"overrides in {path}")
    given = {**own, **dict(override_pairs(overrides))}
    for key in given:
        if key.startswith(OWN):
            raise UserError(f"{key} among the overrides of {path}: the study sets it itself")
    return Study(path, teachers, students, read_seeds(tree["seeds"], path), given)


def _teachers(value: Any, given: tuple[str, ...], path: Path) -> dict[str, str]:
    """File by model: what the study file says, then what is given as MODEL=FILE."""
    if isinstance(value, list):
        value = dict.fromkeys(read_names(value, f"teachers in {path}"), "")
    if not isinstance(value, dict) or len(value) < 2:
        raise UserError(
            f"teachers in {path} is {shown(value)}; allowed: a list of two models or more, or "
            "their files by model; the first is the reference"
        )
    read_names(list(value), f"teachers in {path}")
    files = {name: file or "" for name, file in value.items()}
    for pair in given:
        name, _, file = pair.partition("=")
        if not file:
            raise UserError(f"--teacher {pair} is not MODEL=FILE")
        if name not in files:
            raise unknown("teacher", name, files, f"--teacher; {path} lists them")
        files[name] = file
    for name, file in files.items():
        if not isinstance(file, str) or (file and not Path(file).is_file()):
            raise UserError(f"teachers of {path}: {name} is {shown(file)}, which is no file")
    return files

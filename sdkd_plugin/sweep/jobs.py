"""From a sweep file to runs: methods x pairs x seeds x variants, teachers first, what is finished
left alone.

methods: [vanilla, kd, mine/configs]      folders under configs/cifar100/; with a /, any folder
pairs: [res56_res20]                      files there; vanilla trains the pair's student
seeds: [0, 1, 2]
overrides: {SOLVER.EPOCHS: 12}            any config keys, for every run
variants:                                 optional, by method: label -> config keys
  sdkd:                                   each label is a run of its own
    full: {}
    no mutual: {SDKD.LOSS.MUTUAL_WEIGHT: 0.0}
teachers: {resnet56: teacher.pth}         optional; else mdistiller's place, and where none is
                                          there, trained first (seed 0)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from sdkd_plugin.config import configs_folder, load_config, override_pairs
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.runs.folder import RunFolder
from sdkd_plugin.runs.teacher import MissingTeacherError, loads_teacher, teacher_path
from sdkd_plugin.strict_yaml import read_yaml

KEYS = {
    "methods": list,
    "pairs": list,
    "seeds": list,
    "overrides": dict,
    "variants": dict,
    "teachers": dict,
}
NEEDED = ("methods", "pairs", "seeds")
VANILLA = "vanilla"  # its files are named by the student


@dataclass(frozen=True)
class Job:
    """One run: what `tools/train.py --cfg cfg KEY VALUE ...` would do. `label` names it for
    people.
    """

    label: str
    cfg: Path
    overrides: tuple[str, ...]

    def config(self) -> CN:
        """The resolved config."""
        return load_config(self.cfg, self.overrides)


@dataclass(frozen=True)
class Sweep:
    """Jobs in two phases: the teachers that are missing, then the students; and the pairs that a
    method does not have.
    """

    name: str
    teachers: list[Job]
    students: list[Job]
    undefined: list[str]


def read_sweep(path: Path, overrides: tuple[str, ...] = ()) -> Sweep:
    """Reads and expands a sweep file; `overrides` are KEY VALUE pairs for every run, after the
    file's own.

    Raises:
        UserError: unreadable, an unknown key, method, pair or config key, or a key of the wrong
            kind.
    """
    tree = _read(path)
    tree["overrides"] = {**tree.get("overrides", {}), **dict(override_pairs(overrides))}
    configs = configs_folder() / "cifar100"
    folders = _method_folders(tree, configs, path)
    pairs = sorted(
        {
            file.stem
            for method, folder in folders.items()
            if method != VANILLA
            for file in folder.glob("*.yaml")
        }
    )
    for pair in tree["pairs"]:
        if pair not in pairs:
            raise unknown("pair", pair, pairs, str(path))

    teachers: dict[str, Job] = {}
    students = []
    undefined = []
    for method in tree["methods"]:
        for pair in tree["pairs"]:
            file = _config_file(folders, method, pair)
            if not file.exists():
                undefined.append(f"{method}/{pair}")
                continue
            for job in _jobs_of(method, file, tree):
                students.append(_with_teacher(job, tree, folders[VANILLA], teachers))

    # vanilla is the same run for every teacher
    unique = {(job.cfg, job.overrides): job for job in students}
    return Sweep(path.stem, list(teachers.values()), list(unique.values()), undefined)


def _jobs_of(method: str, file: Path, tree: dict[str, Any]) -> Iterator[Job]:
    """A config file's jobs: its variants times the seeds."""
    variants = tree.get("variants", {}).get(method, {"": {}})
    for variant, own in variants.items():
        for seed in tree["seeds"]:
            names = [f"{Path(method)}/{file.stem}", variant, f"seed {seed}"]
            words = _words({**tree["overrides"], **own, "SOLVER.SEED": seed})
            yield Job(" ".join(filter(None, names)), file, words)


def _read(path: Path) -> dict[str, Any]:
    tree = read_yaml(path, "sweep file", "configs/sweeps/ has examples")
    for key, value in tree.items():
        if key not in KEYS:
            raise unknown("sweep key", key, KEYS, str(path))
        if not isinstance(value, KEYS[key]):
            raise UserError(f"{key} in {path} is {value!r}; allowed: a {KEYS[key].__name__}")
    lacking = [key for key in NEEDED if not tree.get(key)]
    if lacking:
        raise UserError(f"sweep file {path} has no {', '.join(lacking)}")
    return tree


def _method_folders(tree: dict[str, Any], configs: Path, path: Path) -> dict[str, Path]:
    """Where the configs of each method lie that the sweep may name: every one of this package, and
    those from outside that it does name.
    """
    folders = {folder.name: folder for folder in sorted(configs.iterdir())}
    for method in [*tree["methods"], *tree.get("variants", {})]:
        if isinstance(method, str) and "/" in method:
            if not list(Path(method).glob("*.yaml")):
                raise UserError(
                    f"method {method!r} in {path} is no folder with yaml files; allowed: a folder "
                    f"with one for each pair, or a method: {', '.join(sorted(folders))}"
                )
            folders[method] = Path(method)
        elif str(method) not in folders:
            raise unknown("method", method, folders, str(path))
    return folders


def _config_file(folders: dict[str, Path], method: str, pair: str) -> Path:
    if method != VANILLA:
        return folders[method] / f"{pair}.yaml"
    files = [folder / f"{pair}.yaml" for name, folder in folders.items() if name != VANILLA]
    any_method = next(file for file in files if file.exists())
    return folders[VANILLA] / f"{load_config(any_method).DISTILLER.STUDENT}.yaml"


def _words(tree: dict[str, Any]) -> tuple[str, ...]:
    return tuple(word for key, value in tree.items() for word in (key, str(value)))


def _with_teacher(job: Job, tree: dict[str, Any], vanilla: Path, teachers: dict[str, Job]) -> Job:
    """The job with its teacher's checkpoint in its overrides; adds a teacher job if that has to be
    trained first.
    """
    cfg = job.config()
    if not loads_teacher(cfg):
        return job
    name = cfg.DISTILLER.TEACHER
    given = tree.get("teachers", {}).get(name, "")
    if not given:
        try:
            teacher_path(cfg)
            return job
        except MissingTeacherError:
            recipe = vanilla / f"{name}.yaml"
            if not recipe.exists():
                raise UserError(
                    f"teacher {name} of {job.label} has no checkpoint, and no {recipe} says how to "
                    "train one; train it yourself and name its file under teachers"
                ) from None
            words = _words({**tree["overrides"], "SOLVER.SEED": 0})
            teacher = teachers.setdefault(name, Job(f"teacher {name}", recipe, words))
            given = str(folder_of(teacher).path / "student_latest")

    return replace(job, overrides=(*job.overrides, "DISTILLER.TEACHER_CKPT", given))


# By the config's DATASET node: to load and hash CIFAR-100 for each of 500 runs would take minutes.
_DATASETS: dict[str, Dataset] = {}


def folder_of(job: Job) -> RunFolder:
    """The folder a job writes to.

    Raises:
        MissingTeacherError: its teacher is not trained yet, so that the folder's name cannot be
            known.
    """
    cfg = job.config()
    key = cfg.DATASET.dump()
    if key not in _DATASETS:
        _DATASETS[key] = load_dataset(cfg)
    return RunFolder.of(cfg, _DATASETS[key])


def unfinished(jobs: list[Job]) -> Iterator[Job]:
    """The jobs without a result."""
    for job in jobs:
        try:
            if folder_of(job).result is not None:
                continue
        except MissingTeacherError:
            pass
        yield job

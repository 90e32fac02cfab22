"""From a sweep file to runs: methods x pairs x variants x seeds, teachers first, what is finished
left alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from tqdm import tqdm
from yacs.config import CfgNode as CN

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.errors import UserError, shown, unknown
from sdkd_plugin.idle import idle_note
from sdkd_plugin.registry import MODELS
from sdkd_plugin.runs.folder import RunFolder
from sdkd_plugin.runs.teacher import (
    MissingTeacherError,
    loads_teacher,
    teacher_overrides,
    teacher_path,
    vanilla_file,
)
from sdkd_plugin.sweep.file import Settings, SweepFile, read_sweep_file
from sdkd_plugin.sweep.pairs import pair_settings

VANILLA = "vanilla"  # its files are named by the student


@dataclass(frozen=True)
class Job:
    """One run: what `tools/train.py --cfg cfg KEY VALUE ...` would do.

    Args:
        label: names it for people.
        cfg: its yaml file.
        settings: KEY VALUE pairs, all but its seed.
    """

    label: str
    cfg: Path
    settings: tuple[str, ...]
    seed: int

    @property
    def kind(self) -> str:
        """What it has in common with the runs of other seeds, for people."""
        return self.label.removesuffix(f" seed {self.seed}")

    @property
    def overrides(self) -> tuple[str, ...]:
        """KEY VALUE pairs."""
        return (*self.settings, "SOLVER.SEED", str(self.seed))

    def config(self) -> CN:
        """The resolved config."""
        return load_config(self.cfg, self.overrides)


@dataclass(frozen=True)
class Sweep:
    """Jobs in two phases: the teachers that are missing, then the students; the pairs that a method
    does not have; and what the file sets without effect, in a line.
    """

    name: str
    teachers: list[Job]
    students: list[Job]
    undefined: list[str]
    note: str | None = None


def read_sweep(path: Path, overrides: tuple[str, ...] = ()) -> Sweep:
    """Reads and expands a sweep file; `overrides` are KEY VALUE pairs for every run, after the
    file's own.

    Raises:
        UserError: what `read_sweep_file` refuses; an unknown method, pair or config key; a teacher
            that no run has; an EXPERIMENT.NAME that several kinds of runs have.
    """
    file = read_sweep_file(path, overrides)
    teachers: dict[tuple, Job] = {}
    students: dict[tuple, Job] = {}
    undefined = []
    used = set()
    # a bar where it takes long: a config is read for each kind
    for kind in tqdm(list(kinds(file)), "reading the sweep", leave=False, delay=2):
        if not kind.cfg.exists():
            undefined.append(kind.name)
            continue
        # of all seeds alike, so that one config says all
        job = Job(kind.name, kind.cfg, _words(kind.settings), file.seeds[0])
        taught = kind.config(path)
        if loads_teacher(taught):
            used.add(taught.DISTILLER.TEACHER)
            job = _with_teacher(job, taught, file.teachers, teachers)
        # vanilla is the same run for every teacher
        students.setdefault((job.cfg, job.settings), job)
    _check_names(students.values(), path)

    for name in file.teachers:
        if name not in used:
            raise unknown("teacher", name, used, f"teachers of {path}")
    expanded = [
        replace(job, seed=seed, label=f"{job.label} seed {seed}")
        for job in students.values()
        for seed in file.seeds
    ]
    changes = [file.overrides, *(own for each in file.variants.values() for own in each.values())]
    note = idle_note(None, [word for each in changes for word in _words(each)])
    return Sweep(path.stem, list(teachers.values()), expanded, list(dict.fromkeys(undefined)), note)


def _check_names(kinds: Iterable[Job], path: Path) -> None:
    """Refuses a folder's name that EXPERIMENT.NAME gives to more than one kind of runs."""
    takers: dict[tuple[str, str, str], Job] = {}
    for job in kinds:
        cfg, _ = _read_kind(job.cfg, job.settings)
        place = (cfg.LOG.PREFIX, cfg.EXPERIMENT.PROJECT, cfg.EXPERIMENT.NAME)
        if cfg.EXPERIMENT.NAME and takers.setdefault(place, job) is not job:
            raise UserError(
                f"EXPERIMENT.NAME {shown(cfg.EXPERIMENT.NAME)} in {path} is the folder of "
                f"{takers[place].label} and of {job.label}; leave it out, or give each method or "
                "variant its own"
            )


@dataclass(frozen=True)
class Kind:
    """Runs of a sweep that differ in their seed alone.

    Args:
        name: for people.
        label: its variant's; "" where the method has none.
        cfg: its yaml file, which may be missing.
    """

    name: str
    label: str
    cfg: Path
    settings: Settings

    def config(self, sweep: Path) -> CN:
        """The resolved config, with the yaml file's seed. Raises UserError, naming the sweep."""
        try:
            return load_config(self.cfg, _words(self.settings))
        except UserError as error:
            raise UserError(f"{self.name} of {sweep}: {error}") from error


def kinds(file: SweepFile) -> Iterator[Kind]:
    """Every kind of run that a sweep file names."""
    folders = _method_folders(file)
    shipped = {
        each.stem: each
        for method, folder in sorted(folders.items(), reverse=True)
        if method != VANILLA
        for each in sorted(folder.glob("*.yaml"))
    }
    for method in file.methods:
        for pair in file.pairs:
            cfg, own = _recipe(method, pair, folders, shipped, file)
            for label, changes in file.variants.get(method, {"": {}}).items():
                settings = {**own, **file.overrides, **changes}
                name = cfg.stem if method == VANILLA else pair
                if {"DISTILLER.TEACHER", "DISTILLER.STUDENT"} & settings.keys():
                    name = _networks(cfg, settings)
                full = " ".join(filter(None, [f"{Path(method)}/{name}", label]))
                yield Kind(full, label, cfg, settings)


def _networks(cfg: Path, settings: Settings) -> str:
    """TEACHER/STUDENT, or the student of a run without a teacher, where no file's name says it."""
    held = load_config(cfg, _words(settings)) if cfg.exists() else load_config(None)
    names = [held.DISTILLER.TEACHER] if cfg.parent.name != VANILLA else []
    return "/".join([*names, held.DISTILLER.STUDENT])


def _recipe(
    method: str, pair: str, folders: dict[str, Path], shipped: dict[str, Path], file: SweepFile
) -> tuple[Path, Settings]:
    """The yaml file of a method and a pair, and what has to be set on top of it."""
    teacher, _, student = pair.partition("/")
    if student:
        for name in (teacher, student):
            MODELS.find(name, f"pair {pair} of {file.path}")
    elif pair not in shipped:
        raise unknown("pair", pair, [*shipped, "TEACHER/STUDENT"], str(file.path))
    elif method == VANILLA:
        student = load_config(shipped[pair]).DISTILLER.STUDENT

    if method == VANILLA:
        cfg = folders[VANILLA] / f"{student}.yaml"
        if cfg.exists():
            return cfg, {}
        return folders[VANILLA] / "resnet20.yaml", {"DISTILLER.STUDENT": student}
    if student:
        return pair_settings(folders[method], teacher, student)
    return folders[method] / f"{pair}.yaml", {}


def _method_folders(file: SweepFile) -> dict[str, Path]:
    """Where the configs of each method lie that the sweep may name: every one of this package, and
    those from outside that it does name.
    """
    configs = configs_folder() / "cifar100"
    folders = {folder.name: folder for folder in sorted(configs.iterdir())}
    known = sorted(folders)
    for method in file.methods:
        if "/" in method:
            if not list(Path(method).glob("*.yaml")):
                raise UserError(
                    f"method {method!r} in {file.path} is no folder with yaml files; allowed: a "
                    f"folder with one for each pair, or a method: {', '.join(known)}"
                )
            folders[method] = Path(method)
        elif method not in folders:
            raise unknown("method", method, folders, str(file.path))
    return folders


def _words(settings: Settings) -> tuple[str, ...]:
    return tuple(word for pair in settings.items() for word in pair)


def _with_teacher(job: Job, cfg: CN, given: dict[str, str], teachers: dict[tuple, Job]) -> Job:
    """The job with its teacher's checkpoint in its overrides; adds a teacher job if that has to be
    trained first. `cfg` is the job's.
    """
    name = cfg.DISTILLER.TEACHER
    path = given.get(name, "")
    if not path:
        try:
            teacher_path(cfg)
            return job
        except MissingTeacherError:
            if cfg.DISTILLER.TEACHER_CKPT:
                raise
            recipe = vanilla_file(name)
            if recipe is None:
                raise UserError(
                    f"teacher {name} of {job.kind} has no checkpoint, and no vanilla/{name}.yaml "
                    "says how to train one; train it yourself and name its file under teachers"
                ) from None
            words = teacher_overrides(cfg)
            key = (recipe, words)
            if key not in teachers:
                same = sum(other.cfg == recipe for other in teachers.values())
                label = f"teacher {name}" + (f" {same + 1}" if same else "")
                teachers[key] = Job(label, recipe, words, 0)
            path = str(folder_of(teachers[key]).path / "student_latest")

    return replace(job, settings=(*job.settings, "DISTILLER.TEACHER_CKPT", path))


# To load and hash CIFAR-100 for each of 500 runs would take minutes, to read the config of each of
# 20,000 as well: data by the config's DATASET node, folders by kind of run and teacher's file.
_DATASETS: dict[str, Dataset] = {}
_FOLDERS: dict[tuple, RunFolder] = {}


@cache
def _read_kind(cfg: Path, settings: tuple[str, ...]) -> tuple[CN, str]:
    """The config of a kind of run, and its DATASET node as text."""
    read = load_config(cfg, settings)
    return read, read.DATASET.dump()


def folder_of(job: Job) -> RunFolder:
    """The folder a job writes to.

    Raises:
        MissingTeacherError: its teacher is not trained yet, so that the folder's name cannot be
            known.
    """
    cfg, key = _read_kind(job.cfg, job.settings)
    if key not in _DATASETS:
        _DATASETS[key] = load_dataset(cfg)
    taught = teacher_path(cfg).stat() if loads_teacher(cfg) else None
    kind = (job.cfg, job.settings, taught and (taught.st_mtime_ns, taught.st_size))
    if kind not in _FOLDERS:
        _FOLDERS[kind] = RunFolder.of(cfg, _DATASETS[key])
    return _FOLDERS[kind].of_seed(job.seed)


def unfinished(jobs: list[Job]) -> Iterator[Job]:
    """The jobs without a result."""
    for job in jobs:
        try:
            if folder_of(job).result is not None:
                continue
        except MissingTeacherError:
            pass
        yield job

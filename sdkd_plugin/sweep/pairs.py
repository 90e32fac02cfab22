"""The recipe of a method for a teacher and a student that no yaml file pairs."""

from pathlib import Path
from statistics import mode

from sdkd_plugin.config import active_config, default_config, load_config
from sdkd_plugin.runs.teacher import vanilla_file
from sdkd_plugin.settings import flatten
from sdkd_plugin.sweep.file import Settings


def pair_settings(folder: Path, teacher: str, student: str) -> tuple[Path, Settings]:
    """The yaml file of a method to begin with, and what makes it this pair's.

    A file of exactly this pair is taken as it is. Else any file is, with the pair's names; the
    solver as the student's own vanilla file has it, where the method's files follow their
    students'; and the default of each of the method's settings in which its files differ, since
    they were chosen for their pairs. In a folder METHOD_VARIANT, such as kd_lskd, it is not the
    default, which is the method's without the variant, but what most of the files say.

    Args:
        folder: holds the method's yaml files, at least one.
    Raises:
        UserError: a file there is no config.
    """
    files = sorted(folder.glob("*.yaml"))
    configs = [load_config(file) for file in files]
    for file, cfg in zip(files, configs, strict=True):
        if (cfg.DISTILLER.TEACHER, cfg.DISTILLER.STUDENT) == (teacher, student):
            return file, {}

    first, *others = [dict(flatten(active_config(cfg))) for cfg in configs]
    defaults = dict(flatten(default_config()))
    own = f"{configs[0].DISTILLER.TYPE}."
    variant = folder.name.startswith(f"{configs[0].DISTILLER.TYPE.lower()}_")
    settings = {"DISTILLER.TEACHER": teacher, "DISTILLER.STUDENT": student}
    for key, value in first.items():
        if key.startswith(own) and any(other.get(key) != value for other in others):
            usual = mode([value, *(other[key] for other in others)]) if variant else defaults[key]
            settings[key] = str(usual)
    return files[0], {**settings, **_solver(first, student)}


def _solver(base: dict, student: str) -> Settings:
    """What the student's vanilla file changes in the solver of a config that follows its own
    student's.
    """
    theirs, ours = vanilla_file(base["DISTILLER.STUDENT"]), vanilla_file(student)
    if theirs is None or ours is None:
        return {}
    before = dict(flatten(load_config(theirs)))
    after = dict(flatten(load_config(ours)))
    return {
        key: str(value)
        for key, value in after.items()
        if key.startswith("SOLVER.") and before[key] == base[key] != value
    }

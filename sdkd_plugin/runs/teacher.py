"""Which file a run's teacher comes from."""

from pathlib import Path

from yacs.config import CfgNode as CN

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import PUBLISHED_TEACHERS, teacher_checkpoint
from sdkd_plugin.models.library import PRETRAINED, is_library, pretrained_file
from sdkd_plugin.registry import METHODS, MODELS
from sdkd_plugin.settings import flatten

# What a teacher's training takes over from its student's: the data, the length of the schedule, and
# where things lie and run. All else is its own recipe's, the learning rate above all.
TEACHER_KEYS = (
    "DATASET.",
    "EXPERIMENT.PROJECT",
    "LOG.",
    "SOLVER.DEVICE",
    "SOLVER.EPOCHS",
    "SOLVER.LR_DECAY_STAGES",
    "SOLVER.SCHEDULE_EPOCHS",
    "SOLVER.THREADS",
)

NOT_TEACHERS = ("DATASET.VIEWS",)  # which are the student's method's


class MissingTeacherError(UserError):
    """No checkpoint for the teacher where one was looked for."""


def loads_teacher(cfg: CN) -> bool:
    """Whether the config's method distils from a trained teacher's checkpoint."""
    return METHODS[cfg.DISTILLER.TYPE].build.teacher_from == "checkpoint"


def teacher_path(cfg: CN) -> Path:
    """The checkpoint the teacher comes from.

    Raises:
        UserError: there is none; says which file is wanted, who publishes it and how to train one
            here.
    """
    name = cfg.DISTILLER.TEACHER
    MODELS[name]  # an unknown name should not be told to train itself
    if cfg.DISTILLER.TEACHER_CKPT == PRETRAINED:
        return pretrained_file(name)
    path = Path(cfg.DISTILLER.TEACHER_CKPT or teacher_checkpoint(name))
    if path.is_file():
        return path

    published = "nobody publishes one"
    if name in PUBLISHED_TEACHERS:
        published = "mdistiller publishes it (cifar_teachers.tar)"
    elif is_library(name):
        published = (
            f"DISTILLER.TEACHER_CKPT {PRETRAINED} takes its library's weights, if the classes fit"
        )
    recipe, also = f"{name}.yaml", ", or add --train-teacher to this command"
    if vanilla_file(name) is None:
        recipe, also = f"resnet20.yaml DISTILLER.STUDENT {name}", ""
    raise MissingTeacherError(
        f"teacher checkpoint {path} (DISTILLER.TEACHER_CKPT) does not exist; {published}; to train "
        f"one here: python tools/train.py --cfg configs/cifar100/vanilla/{recipe}, then set "
        f"DISTILLER.TEACHER_CKPT to its student_latest{also}"
    )


def vanilla_file(name: str) -> Path | None:
    """The yaml file that trains a model alone; None where none ships, as for a plug-in's model."""
    file = configs_folder() / "cifar100" / "vanilla" / f"{name}.yaml"
    return file if file.is_file() else None


def teacher_overrides(cfg: CN) -> tuple[str, ...]:
    """What the teacher's own vanilla file needs on top, as KEY VALUE pairs, so that it trains on
    the data and for the epochs of this config, which is its student's.

    Raises:
        UserError: no vanilla file ships for the teacher.
    """
    name = cfg.DISTILLER.TEACHER
    file = vanilla_file(name)
    if file is None:
        raise UserError(f"no vanilla/{name}.yaml says how to train DISTILLER.TEACHER {name}")
    own = dict(flatten(load_config(file)))
    return tuple(
        word
        for key, value in flatten(cfg)
        if key.startswith(TEACHER_KEYS) and key not in NOT_TEACHERS and value != own[key]
        for word in (key, str(value))
    )

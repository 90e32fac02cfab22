"""Which file a run's teacher comes from."""

from pathlib import Path

from yacs.config import CfgNode as CN

from sdkd_plugin.errors import UserError
from sdkd_plugin.models import PUBLISHED_TEACHERS, teacher_checkpoint
from sdkd_plugin.registry import METHODS, MODELS


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
    path = Path(cfg.DISTILLER.TEACHER_CKPT or teacher_checkpoint(name))
    if path.is_file():
        return path

    published = "nobody publishes one"
    if name in PUBLISHED_TEACHERS:
        published = "mdistiller publishes it (cifar_teachers.tar)"
    raise MissingTeacherError(
        f"teacher checkpoint {path} (DISTILLER.TEACHER_CKPT) does not exist; {published}; to train "
        f"one here: python tools/train.py --cfg configs/cifar100/vanilla/{name}.yaml, then set "
        "DISTILLER.TEACHER_CKPT to its student_latest, or add --train-teacher to this command"
    )

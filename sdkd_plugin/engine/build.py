"""From a config to a distiller: the student's initial weights depend on (seed, student) alone."""

from pathlib import Path

from torch import nn
from yacs.config import CfgNode as CN

from sdkd_plugin.config import scaled_config
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import PUBLISHED_TEACHERS, build_model, teacher_checkpoint
from sdkd_plugin.randomness import torch_seeded
from sdkd_plugin.registry import METHODS, MODELS
from sdkd_plugin.weights import load_weights


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
    published = (
        "mdistiller publishes it (cifar_teachers.tar)"
        if name in PUBLISHED_TEACHERS
        else "nobody publishes one"
    )
    raise MissingTeacherError(
        f"teacher checkpoint {path} (DISTILLER.TEACHER_CKPT) does not exist; {published}; to train "
        f"one here: "
        f"python tools/train.py --cfg configs/cifar100/vanilla/{name}.yaml, then set "
        f"DISTILLER.TEACHER_CKPT to its "
        "student_latest, or add --train-teacher to this command"
    )


def build_teacher(cfg: CN, num_classes: int) -> nn.Module | None:
    """The teacher as the method wants it: from its checkpoint, in eval mode; freshly initialised;
    or none.
    """
    source, name = METHODS[cfg.DISTILLER.TYPE].build.teacher_from, cfg.DISTILLER.TEACHER
    if source == "none":
        return None
    with torch_seeded(
        cfg.SOLVER.SEED, "teacher", name
    ):  # not the student's key: twins must not start as copies
        teacher = build_model(name, num_classes)
    if source == "checkpoint":
        load_weights(teacher, teacher_path(cfg), name)
        teacher.eval()
    return teacher


def build_distiller(cfg: CN, dataset: Dataset, teacher: nn.Module | None) -> Distiller:
    """The config's method around a freshly initialised student.

    Student and method modules draw their weights from separate keys, so neither the method nor the
    teacher changes the student a seed begins with.
    """
    with torch_seeded(cfg.SOLVER.SEED, "student", cfg.DISTILLER.STUDENT):
        student = build_model(cfg.DISTILLER.STUDENT, dataset.num_classes)
    method = METHODS[cfg.DISTILLER.TYPE].build
    arguments = [len(dataset.train)] if method.needs_num_data else []
    with torch_seeded(cfg.SOLVER.SEED, "distiller", cfg.DISTILLER.TYPE):
        return method(student, teacher, scaled_config(cfg), *arguments)

"""From a config to a distiller: the student's initial weights depend on (seed, student) alone."""

from pathlib import Path

from torch import nn
from yacs.config import CfgNode as CN

from sdkd_plugin import weights
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.data.spec import DataSpec
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.printable import print_once
from sdkd_plugin.randomness import torch_seeded
from sdkd_plugin.registry import METHODS


def build_teacher(cfg: CN, num_classes: int, checkpoint: Path | None) -> nn.Module | None:
    """The teacher as the method wants it: trained and in eval mode; freshly initialised; or none.

    Args:
        checkpoint: `runs.teacher.teacher_path` of the config, for a method that loads a teacher.
    """
    source = METHODS[cfg.DISTILLER.TYPE].build.teacher_from
    if source == "none":
        return None

    name = cfg.DISTILLER.TEACHER
    # not the student's key: twins must not start as copies
    with torch_seeded(cfg.SOLVER.SEED, "teacher", name):
        teacher = build_model(name, num_classes)
    if source == "checkpoint":
        assert checkpoint is not None
        weights.load_weights(teacher, checkpoint, name)
        teacher.eval()
    return teacher


def build_distiller(cfg: CN, dataset: Dataset, teacher: nn.Module | None) -> Distiller:
    """The config's method around a freshly initialised student.

    Student and method modules draw their weights from separate keys, so neither the method nor the
    teacher changes the student a seed begins with.

    Args:
        cfg: scaled, see `config.scaled_config`.
    """
    with torch_seeded(cfg.SOLVER.SEED, "student", cfg.DISTILLER.STUDENT):
        student = build_model(cfg.DISTILLER.STUDENT, dataset.num_classes)

    method = METHODS[cfg.DISTILLER.TYPE].build
    arguments = [len(dataset.train)] if method.needs_num_data else []
    with torch_seeded(cfg.SOLVER.SEED, "distiller", cfg.DISTILLER.TYPE):
        return method(student, teacher, cfg, *arguments)


def check_teacher_data(checkpoint: Path, dataset: Dataset) -> None:
    """Compares what a teacher's file says that it was trained on with the data here; prints a note
    where it says nothing.

    Raises:
        UserError: they differ in classes, their order, image size or normalisation.
    """
    spec = DataSpec.in_file(weights.load(checkpoint), checkpoint)
    if spec is None:
        print_once(
            f"note: {checkpoint} does not say which classes, image size, mean and std it was "
            "trained with (files of this package do since 0.2.0), so they cannot be compared"
        )
        return
    told = spec.difference(DataSpec.of(dataset))
    if told:
        raise UserError(
            f"teacher {checkpoint} was trained on other data than {dataset.name!r}: {told}; give a "
            "teacher of these data (DISTILLER.TEACHER_CKPT), or these data as the teacher knows "
            "them: folders or an npz's array 'classes' name the classes"
        )

"""`--train-teacher`: the teacher that a run lacks is trained first, by its own recipe."""

import shutil
from pathlib import Path

import pytest
from support.tiny import (
    assert_same_run,
    contents,
    result,
    save_teacher,
    tiny_config,
    tiny_yaml,
    train_command,
    train_until_killed,
)

from sdkd_plugin.config import load_config
from sdkd_plugin.engine.run import teacher_config, train
from sdkd_plugin.files import sha256
from sdkd_plugin.settings import flatten

KD = {"DISTILLER.TYPE": "KD"}


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> tuple[Path, Path]:
    """A teacher's and its student's folder, both made by one command."""
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train_command(tiny_yaml(folder, KD), "--train-teacher") == 0
    return folders(folder)


def folders(place: Path) -> tuple[Path, Path]:
    (teacher,) = place.glob("runs/distill/vanilla_resnet14-*/seed0")
    (student,) = place.glob("runs/distill/default-*/seed0")
    return teacher, student


def test_one_command_trains_the_teacher_and_then_its_student(taught):
    teacher, student = taught
    found = result(teacher)
    assert (found["method"], found["student"], found["epochs"]) == ("NONE", "resnet14", 3)
    assert result(student)["identity"]["teacher"] == sha256(teacher / "student_latest")
    assert result(student)["teacher_score"] == found["last"]


def test_the_teacher_is_the_one_that_its_own_vanilla_file_gives(taught, tmp_path):
    schedule = ["SOLVER.EPOCHS", "3", "SOLVER.LR_DECAY_STAGES", "[2]", "LOG.PREFIX", str(tmp_path)]
    data = ["DATASET.TYPE", "digits", "DATASET.SUBSET", "0.1"]
    alone = train(load_config("configs/cifar100/vanilla/resnet14.yaml", [*data, *schedule]))
    assert alone.path.parent.name == taught[0].parent.name
    assert_same_run(taught[0], alone.path)


STUDENTS_OWN = {
    "SOLVER.LR": 0.01,
    "SOLVER.BATCH_SIZE": 24,
    "SOLVER.WEIGHT_DECAY": 0.1,
    "SOLVER.SEED": 3,
    "SOLVER.PRECISION": "bf16",
    "SOLVER.TRAINER": "crd",
    "KD.TEMPERATURE": 2.0,
    "EXPERIMENT.NAME": "mine",
}


@pytest.mark.parametrize("key", STUDENTS_OWN)
def test_a_teacher_takes_nothing_over_from_its_student_but_data_and_schedule(key, tmp_path):
    student = tiny_config(tmp_path, {**KD, key: STUDENTS_OWN[key]})
    assert teacher_config(student) == teacher_config(tiny_config(tmp_path, KD))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATASET.SUBSET", 0.2),
        ("SOLVER.EPOCHS", 5),
        ("SOLVER.SCHEDULE_EPOCHS", 240),
        ("SOLVER.LR_DECAY_STAGES", [1]),
        ("LOG.PREFIX", "elsewhere"),
        ("EXPERIMENT.PROJECT", "p"),
    ],
)
def test_a_teacher_takes_over_its_students_data_and_schedule(key, value, tmp_path):
    teacher = teacher_config(tiny_config(tmp_path, {**KD, key: value}))
    assert dict(flatten(teacher))[key] == value
    assert teacher.DISTILLER.STUDENT == "resnet14" and teacher.SOLVER.WEIGHT_DECAY == 5e-4


def test_a_teacher_learns_as_its_own_file_says_not_its_students():
    cfg = load_config("configs/cifar100/kd/res56_res20.yaml", ["SOLVER.LR", "0.3"])
    assert teacher_config(cfg).SOLVER.LR == 0.05
    cfg = load_config("configs/cifar100/kd/res56_res20.yaml", ["DISTILLER.TEACHER", "MobileNetV2"])
    assert (cfg.SOLVER.LR, teacher_config(cfg).SOLVER.LR) == (0.05, 0.01)


def test_the_folder_of_a_librarys_teacher_has_no_colon():
    words = ["DISTILLER.TEACHER", "torchvision:resnet18", "DISTILLER.STUDENT", "timm:resnet10t"]
    cfg = load_config("configs/cifar100/kd/res56_res20.yaml", words)
    assert teacher_config(cfg).EXPERIMENT.TAG == "vanilla,torchvision-resnet18"


def test_a_trained_teacher_is_used_again(taught, tmp_path, monkeypatch, capsys):
    shutil.copytree(taught[0].parents[2], tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    yaml, before = tiny_yaml(tmp_path, KD), contents(tmp_path / "runs")
    assert train_command(yaml, "--train-teacher") == 0
    assert contents(tmp_path / "runs") == before
    assert train_command(yaml, "--train-teacher", SOLVER__SEED=1) == 0
    after = contents(tmp_path / "runs")
    assert {name: after[name] for name in before} == before
    assert {Path(name).parts[1:3] for name in after.keys() - before.keys()} == {
        (taught[1].parent.name, "seed1")
    }


@pytest.mark.parametrize("steps", [5, 9 + 5], ids=["teacher", "student"])
def test_both_trainings_resume(steps, taught, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yaml = tiny_yaml(tmp_path, KD)
    train_until_killed(load_config(yaml), steps, train_teacher=True)
    assert train_command(yaml, "--train-teacher") == 2, (
        "an unfinished run asks for --resume here too"
    )
    assert train_command(yaml, "--train-teacher", "--resume") == 0
    for whole, resumed in zip(taught, folders(tmp_path), strict=True):
        assert_same_run(whole, resumed)


def test_a_named_teacher_that_is_missing_is_a_typo_and_nothing_is_trained(tmp_path, capsys):
    yaml = tiny_yaml(tmp_path, {**KD, "DISTILLER.TEACHER_CKPT": tmp_path / "nix"})
    assert train_command(yaml, "--train-teacher") == 2
    said = capsys.readouterr().err
    assert f"teacher checkpoint {tmp_path / 'nix'} (DISTILLER.TEACHER_CKPT) does not exist" in said
    assert "correct its path, or leave DISTILLER.TEACHER_CKPT out" in said
    assert "add --train-teacher" not in said
    assert not (tmp_path / "runs").exists()


def test_an_existing_teacher_is_not_trained(tmp_path):
    train(
        tiny_config(
            tmp_path,
            {**KD, "DISTILLER.TEACHER_CKPT": save_teacher(tmp_path / "t"), "SOLVER.EPOCHS": 1},
        ),
        train_teacher=True,
    )
    assert len(list(tmp_path.rglob("result.json"))) == 1


def test_a_method_without_a_teacher_trains_none(tmp_path):
    train(tiny_config(tmp_path, {"SOLVER.EPOCHS": 1}), train_teacher=True)
    assert len(list(tmp_path.rglob("result.json"))) == 1

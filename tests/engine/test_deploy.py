"""A student file that is no bare student says what it holds, and is scored as the run scored it."""

from pathlib import Path

import pytest
import torch
from support.tiny import result, save_teacher, tiny_config

from sdkd_plugin import weights
from sdkd_plugin.__main__ import main
from sdkd_plugin.config import load_config
from sdkd_plugin.engine.deploy import load_network
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.score import score_checkpoint
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

SMALL = {"SOLVER.EPOCHS": 1, "SOLVER.LR": 0.01, "NORM.N": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("deploy")


def run(folder: Path, method: str, pair: str) -> Path:
    teacher, student = pair.split("/")
    checkpoint = save_teacher(folder / f"{teacher}.pth", teacher)
    names = {"DISTILLER.TYPE": method, "DISTILLER.TEACHER": teacher, "DISTILLER.STUDENT": student}
    return train(tiny_config(folder, {**names, "DISTILLER.TEACHER_CKPT": checkpoint, **SMALL})).path


@pytest.fixture(scope="module")
def simkd(folder) -> Path:
    return run(folder, "SIMKD", "resnet14/resnet8")


def saved(path: Path) -> dict:
    """What the file holds, but for its digest."""
    return weights.load(path / "student_latest")


def score(path: Path, model: str = "") -> float:
    """What `eval -c FILE` says."""
    cfg = load_config(None, ["DATASET.TYPE", "digits", "DISTILLER.STUDENT", model])
    return score_checkpoint(cfg, str(path / "student_latest"))["top1"]


def test_simkds_file_describes_itself_and_scores_as_in_training(simkd):
    state = saved(simkd)
    names = {"method": "SIMKD", "teacher": "resnet14", "student": "resnet8", "num_classes": 10}
    assert state["deploy"] == {
        **names,
        "config": {"CE_WEIGHT": 0.0, "FEAT_WEIGHT": 1.0, "FACTOR": 2},
    }
    assert score(simkd) == score(simkd, "resnet8") == pytest.approx(result(simkd)["last"]["top1"])
    assert result(simkd)["deployed_parameters"] == sum(
        value.numel()
        for key, value in state["model"].items()
        if not key.endswith(("running_mean", "running_var", "tracked"))
    )


def test_the_command_line_needs_no_model_for_it(simkd, capsys):
    assert main(["eval", "-d", "digits", "-c", str(simkd / "student_latest")]) == 0
    assert "resnet8 as SIMKD deploys it on 360 test images: top-1" in capsys.readouterr().out


def test_norms_wrn_student_describes_itself(folder):
    path = run(folder, "NORM", "wrn_16_2/wrn_16_1")
    assert saved(path)["deploy"]["student"] == "wrn_16_1"
    assert score(path) == pytest.approx(result(path)["last"]["top1"])


def test_norms_folded_resnet_is_a_bare_student(folder):
    path = run(folder, "NORM", "resnet14/resnet8")
    assert saved(path).keys() == {"model", "data"}
    assert score(path, "resnet8") == pytest.approx(result(path)["last"]["top1"])
    build_model("resnet8", 10).load_state_dict(saved(path)["model"])


def test_bare_students_say_their_model_and_their_data_alone(folder):
    assert saved(run(folder, "KD", "resnet14/resnet8")).keys() == {"model", "data"}


def test_a_teacher_that_trained_along_is_a_teachers_checkpoint(folder):
    path = run(folder, "DML", "resnet14/resnet8")
    assert saved(path).keys() == {"model", "data"}
    _, peer = load_network(str(path / "teacher_latest"), "resnet14", 10)
    latest = torch.load(path / "latest", weights_only=True)["model"]
    assert all(
        torch.equal(value, latest[f"teacher.{key}"]) for key, value in peer.state_dict().items()
    )
    assert result(path)["teacher_score"]["top1"] > 0
    cfg = tiny_config(
        folder, {"DISTILLER.TYPE": "KD", "DISTILLER.TEACHER_CKPT": path / "teacher_latest", **SMALL}
    )
    assert result(train(cfg).path)["teacher_score"] == result(path)["teacher_score"]


@pytest.mark.parametrize(
    "name, classes, message",
    [
        ("resnet14", 10, "holds resnet8 for 10 classes; asked for is resnet14 for 10 classes"),
        ("", 100, "holds resnet8 for 10 classes; asked for is its model for 100 classes"),
    ],
)
def test_another_model_or_data_set_is_refused(simkd, name, classes, message):
    with pytest.raises(UserError, match=message):
        load_network(str(simkd / "student_latest"), name, classes)


def test_a_bare_file_needs_a_name(tmp_path):
    path = save_teacher(tmp_path / "bare.pth")
    with pytest.raises(UserError, match="does not say which model it holds; name it with -m"):
        load_network(str(path), "", 10)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"deploy": 3}, "'deploy' is malformed; wanted the entries method, teacher"),
        ({"num_classes": "10"}, "'deploy' is malformed"),
        ({"extra": 1}, "'deploy' is malformed"),
        ({"method": "SIMKDD"}, "unknown method 'SIMKDD'"),
        ({"student": "resnet9"}, "unknown model 'resnet9'"),
        (
            {"config": {"FACTOR": 2}},
            "its SIMKD settings differ from this version's in CE_WEIGHT, FEAT_WEIGHT",
        ),
        ({"student": "resnet8x4"}, "is not for model 'resnet8x4 as SIMKD deploys it'"),
    ],
)
def test_a_foreign_description_is_refused(simkd, tmp_path, change, message):
    state = saved(simkd)
    state["deploy"] = change["deploy"] if "deploy" in change else {**state["deploy"], **change}
    torch.save(state, tmp_path / "foreign")
    with pytest.raises(UserError, match=message) as error:
        load_network(str(tmp_path / "foreign"), "", 10)
    assert "\n" not in str(error.value)

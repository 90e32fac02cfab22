"""From a config to a finished run: what is written, what is reused, what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny import (
    BASE,
    contents,
    metrics,
    result,
    save_teacher,
    tiny_config,
    tiny_yaml,
    train_command,
    words,
)

from sdkd_plugin.__main__ import main
from sdkd_plugin.config import active_config, load_config
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine.memory import peak_memory
from sdkd_plugin.engine.run import train
from sdkd_plugin.files import sha256
from sdkd_plugin.runs.environment import describe_environment

KD = {"DISTILLER.TYPE": "KD"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished vanilla run of resnet14, named "mine"."""
    folder = tmp_path_factory.mktemp("finished")
    return train(
        tiny_config(folder / "runs", {"DISTILLER.STUDENT": "resnet14", "EXPERIMENT.NAME": "mine"})
    ).path


@pytest.fixture
def copy(finished, tmp_path) -> tuple[str, Path]:
    """The same in a place of its own: its yaml and its folder."""
    shutil.copytree(finished.parents[3] / "runs", tmp_path / "runs")
    yaml = tiny_yaml(tmp_path, {"DISTILLER.STUDENT": "resnet14", "EXPERIMENT.NAME": "mine"})
    return yaml, tmp_path / "runs" / "distill" / "mine" / "seed0"


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_a_finished_run_says_so_and_rewrites_nothing(options, copy, capsys):
    yaml, folder = copy
    before = contents(folder)
    assert train_command(yaml, *options) == 0
    top1 = result(folder)["last"]["top1"]
    assert f"{folder} holds this run, finished: last top-1 {top1:.2f}" in capsys.readouterr().out
    assert contents(folder) == before


def test_the_written_config_repeats_the_run(copy, capsys):
    _, folder = copy
    before = contents(folder)
    assert (
        main(["train", "--cfg", str(folder / "config.yaml"), "LOG.PREFIX", str(folder.parents[2])])
        == 0
    )
    assert "finished" in capsys.readouterr().out and contents(folder) == before


def test_another_config_under_the_same_name_is_refused_and_shown(copy, capsys):
    yaml, folder = copy
    before = contents(folder)
    assert train_command(yaml, SOLVER__LR=0.1, DATASET__AUGMENT="none") == 2
    error = capsys.readouterr().err
    assert (
        "DATASET.AUGMENT: 'none' -> 'crop_flip'; SOLVER.LR: 0.1 -> 0.05" in error
        and "choose another EXPERIMENT.NAME" in error
    )
    assert contents(folder) == before


def test_an_unfinished_run_asks_for_resume(copy, capsys):
    yaml, folder = copy
    (folder / "result.json").unlink()
    before = contents(folder)
    assert train_command(yaml) == 2
    assert f"{folder} holds this run, unfinished; add --resume" in capsys.readouterr().err
    assert contents(folder) == before


def test_a_folder_of_something_else_is_refused(copy, capsys):
    yaml, folder = copy
    for path in folder.iterdir():
        if path.name != "metrics.csv":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(folder)
    assert train_command(yaml) == train_command(yaml, "--resume") == 2
    assert "holds files of something else than a run of this package" in capsys.readouterr().err
    assert contents(folder) == before


def test_a_folder_that_another_process_writes_to_is_refused(copy, capsys):
    yaml, folder = copy
    code = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
        "print('locked'); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(folder / ".lock")], **pipes
    ) as other:
        assert other.stdout.readline() == "locked\n"
        assert train_command(yaml, "--resume") == 2
        assert "is being written by another process" in capsys.readouterr().err
        other.kill()
    assert train_command(yaml) == 0


def test_the_result_says_what_the_metrics_say(finished):
    rows, found = metrics(finished), result(finished)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.05, 0.05, 0.005])
    names = ("top1", "top5", "loss", "ece")
    assert found["last"] == {name: float(rows[-1][f"test_{name}"]) for name in names}
    best = max(rows, key=lambda row: float(row["test_top1"]))
    assert found["best"] == {name: float(best[f"test_{name}"]) for name in names}
    assert found["best_epoch"] == int(best["epoch"]) and found["metrics"].keys() == set(names)
    assert (found["method"], found["seed"]) == ("NONE", 0)
    assert (found["student"], found["teacher"]) == ("resnet14", None)
    assert (found["dataset"], found["evaluates"]) == ("digits", "test")
    assert (found["train_images"], found["epochs"]) == (143, 3)
    assert found["config"] == active_config(load_config(finished / "config.yaml"))
    assert found["identity"] == json.loads((finished / "identity.json").read_text())
    assert found["environment"] == json.loads((finished / "environment.json").read_text())
    assert 0 < found["wall_seconds"] < 600 and found["images_per_second"] > 0
    assert found["extra_parameters"] == 0


def test_held_out_images_are_evaluated_instead_of_the_test_images(tmp_path):
    cfg = tiny_config(tmp_path, {"SOLVER.EPOCHS": 1, "DATASET.VAL_FRACTION": 0.3})
    found = result(train(cfg).path)
    dataset = load_dataset(cfg)
    assert found["evaluates"] == "val" and found["train_images"] == len(dataset.train) < 143
    step = 100 / len(dataset.test)
    assert found["last"]["top1"] / step == pytest.approx(round(found["last"]["top1"] / step))


def test_the_environment_is_written_down(finished):
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["device"] and environment["threads"] >= 1
    root = Path(describe_environment.__code__.co_filename).parents[2]
    git = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert environment["commit"] == (git.stdout.strip() if (root / ".git").exists() else None)
    # bytes: torch alone takes more than 64 MiB
    assert 2**26 < peak_memory(torch.device("cpu")) < 2**40


@pytest.mark.parametrize("name", ["student_latest", "student_best"])
def test_eval_prints_the_accuracy_of_the_result(name, finished, capsys):
    which = "last" if name == "student_latest" else "best"
    assert main(["eval", "-m", "resnet14", "-c", str(finished / name), "-d", "digits"]) == 0
    scores = result(finished)[which]
    assert (
        f"resnet14 on 360 test images: top-1 {scores['top1']:.2f}, top-5 {scores['top5']:.2f}"
        in capsys.readouterr().out
    )


def test_eval_finds_the_published_teachers_place(finished, tmp_path, monkeypatch, capsys):
    place = tmp_path / "download_ckpts" / "cifar_teachers" / "resnet14_vanilla"
    place.mkdir(parents=True)
    shutil.copy(finished / "student_latest", place / "ckpt_epoch_240.pth")
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "-m", "resnet14", "-d", "digits", "-bs", "7"]) == 0
    assert f"top-1 {result(finished)['last']['top1']:.2f}" in capsys.readouterr().out


def test_a_student_of_a_vanilla_run_is_a_teacher_whose_accuracy_is_measured(
    finished, tmp_path, capsys
):
    teacher = finished / "student_latest"
    found = result(
        train(
            tiny_config(tmp_path, {**KD, "DISTILLER.TEACHER_CKPT": teacher, "SOLVER.EPOCHS": 1})
        ).path
    )
    assert found["teacher_score"] == result(finished)["last"]
    assert found["teacher"] == "resnet14" and found["identity"]["teacher"] == sha256(teacher)
    assert (
        f"teacher resnet14: on the test images: top-1 {found['teacher_score']['top1']:.2f}"
        in capsys.readouterr().out
    )


def test_another_teachers_content_is_another_run_and_its_place_is_not(tmp_path):
    one_epoch = {**KD, "SOLVER.EPOCHS": 1, "DISTILLER.TEACHER_CKPT": save_teacher(tmp_path / "one")}
    first = train(tiny_config(tmp_path, one_epoch)).path
    before = contents(first)
    shutil.copy(tmp_path / "one", tmp_path / "moved")
    assert (
        train(
            tiny_config(tmp_path, {**one_epoch, "DISTILLER.TEACHER_CKPT": tmp_path / "moved"})
        ).path
        == first
    )
    save_teacher(tmp_path / "one", seed=1)
    assert train(tiny_config(tmp_path, one_epoch)).path != first
    assert contents(first) == before


def test_phases_that_solver_epochs_does_not_count_are_said_at_the_start(tmp_path, capsys):
    ft = {"DISTILLER.TYPE": "FT", "DISTILLER.TEACHER_CKPT": save_teacher(tmp_path / "t")}
    short = {"SOLVER.EPOCHS": 1, "FT.INIT_EPOCHS": 2}
    train(tiny_config(tmp_path, {**ft, **short}))
    said = capsys.readouterr().out
    assert "SOLVER.EPOCHS is 1, but FT trains 2 'init' + 1 'train'" in said
    assert "FT.INIT_EPOCHS scales along" in said
    train(tiny_config(tmp_path, {**KD, **ft, "DISTILLER.TYPE": "KD", "SOLVER.EPOCHS": 1}))
    assert "SOLVER.EPOCHS is" not in capsys.readouterr().out


def test_base_is_what_these_tests_count_with():
    data = load_dataset(load_config(None, words(BASE)))
    assert (BASE["SOLVER.EPOCHS"], len(data.train)) == (3, 143)


def test_more_epochs_with_resume_are_another_run_and_said_so(copy, capsys):
    yaml, folder = copy
    before = contents(folder)
    unnamed = {"EXPERIMENT__NAME": "", "LOG__PREFIX": folder.parents[2], "SOLVER__LR": 0.1}
    assert train_command(yaml, "--resume", **unnamed, SOLVER__EPOCHS=1) == 0
    assert "no unfinished run of this config" not in capsys.readouterr().out
    assert train_command(yaml, "--resume", **unnamed, SOLVER__EPOCHS=2) == 0
    (line,) = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("no unfinished run of this config; ")
    ]
    assert line.endswith(
        "differs in SOLVER.EPOCHS: 1 -> 2, which is another run: starting at epoch 1"
    )
    # once it is there it goes on, or is finished, and nothing is to be said
    assert train_command(yaml, "--resume", **unnamed, SOLVER__EPOCHS=2) == 0
    assert "which is another run" not in capsys.readouterr().out
    assert contents(folder) == before

"""`eval` scores a network as its run did, and says what was asked to be otherwise."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import result, save_teacher, tiny_config, tiny_yaml, words

from sdkd_plugin.__main__ import main
from sdkd_plugin.config import load_config
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine.run import train
from sdkd_plugin.runs.identity import data_identity

OWN = {"DATASET.IMAGE_SIZE": 4, "DATASET.MEAN": [0.2, 0.3, 0.4], "SOLVER.EPOCHS": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run at 4 pixels with a mean of its own, on 30 % of the training images that it held out."""
    folder = tmp_path_factory.mktemp("score")
    return train(tiny_config(folder, {**OWN, "DATASET.VAL_FRACTION": 0.3})).path


def scored(capsys, *arguments: object) -> str:
    """What `eval` prints."""
    assert main(["eval", *map(str, arguments)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def top1(folder: Path) -> str:
    return f"top-1 {result(folder)['last']['top1']:.2f}"


def test_a_run_is_scored_with_its_own_config(run, capsys):
    for given in ([run], [run / "student_latest"], ["-c", run], ["-c", run / "student_latest"]):
        shown = scored(capsys, *given)
        assert "resnet8 on 43 val images" in shown or "val images: " in shown
        assert top1(run) in shown and "4x4 pixels, mean [0.2, 0.3, 0.4]" in shown
        assert "overrides" not in shown


def test_what_overrides_the_run_is_said(run, capsys):
    shown = scored(capsys, run, "DATASET.IMAGE_SIZE", 8, "DATASET.VAL_FRACTION", 0)
    assert "DATASET.IMAGE_SIZE 8 overrides 4, with which the network was trained\n" in shown
    assert "DATASET.VAL_FRACTION 0.0 overrides 0.3, with" in shown
    assert shown.count("overrides") == 2 and "on 360 test images" in shown and "8x8" in shown
    assert "overrides" not in scored(capsys, "-m", "resnet8", "-d", "digits", run)
    assert "DATASET.TEST.BATCH_SIZE 7 overrides 64" in scored(capsys, "-bs", "7", run)


def test_a_file_without_its_folder_says_its_images_itself(run, tmp_path, capsys):
    shutil.copy(run / "student_latest", tmp_path / "moved")
    shown = scored(capsys, "-m", "resnet8", "-d", "digits", "-c", tmp_path / "moved")
    assert "4x4 pixels, mean [0.2, 0.3, 0.4]" in shown and "overrides" not in shown
    shown = scored(
        capsys, "-m", "resnet8", "-d", "digits", tmp_path / "moved", "DATASET.IMAGE_SIZE", 8
    )
    assert "DATASET.IMAGE_SIZE 8 overrides 4, with which" in shown and "8x8 pixels" in shown


def test_a_file_of_an_earlier_version_in_its_folder_has_its_config(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    state = torch.load(folder / "student_latest", weights_only=True)
    torch.save({"model": state["model"]}, folder / "student_latest")
    assert top1(run) in scored(capsys, folder)


def test_a_foreign_file_has_the_defaults_and_nothing_to_override(tmp_path, capsys):
    bare = save_teacher(tmp_path / "bare")
    assert "overrides" not in scored(capsys, "-m", "resnet14", "-d", "digits", "-c", bare)
    torch.save(torch.load(bare, weights_only=True)["model"], tmp_path / "plain")
    shown = scored(capsys, "-m", "resnet14", "-d", "digits", tmp_path / "plain")
    assert "resnet14 on 360 test images: top-1" in shown


def refused(capsys, *arguments: object) -> str:
    assert main([str(word) for word in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_no_network_is_refused_with_advice(run, tmp_path, capsys):
    assert "latest is what --resume goes on from" in refused(capsys, "eval", run / "latest")
    assert "use student_best of the same folder" in refused(capsys, "eval", run / "best")
    assert f"it holds the runs {run.name}" in refused(capsys, "eval", run.parent)
    assert "is no run folder: it has no config.yaml" in refused(capsys, "eval", tmp_path)
    assert "does not exist" in refused(capsys, "eval", tmp_path / "nix")
    said = refused(capsys, "eval", "-c", run, "DATASET.ROOT")
    assert "overrides come as KEY VALUE pairs" in said


def npz(path: Path, classes: list[str]) -> Path:
    """The digits with these names, in this order."""
    digits = load_dataset(load_config(None, ["DATASET.TYPE", "digits"]))
    place = torch.tensor([digits.classes.index(name) for name in classes]).argsort()
    np.savez(
        path,
        x_train=digits.train.images.numpy(),
        y_train=place[digits.train.targets].numpy(),
        x_test=digits.test.images.numpy(),
        y_test=place[digits.test.targets].numpy(),
        classes=np.array(classes),
    )
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    return train(tiny_config(folder, {"DISTILLER.STUDENT": "resnet14", "SOLVER.EPOCHS": 1})).path


def taught(folder: Path, teacher: Path, **overrides: object) -> list[str]:
    keys = {"DISTILLER.TYPE": "KD", "DISTILLER.TEACHER_CKPT": teacher / "student_latest"}
    own = {key.replace("__", "."): value for key, value in overrides.items()}
    return ["train", "--cfg", tiny_yaml(folder, keys), *words({"SOLVER.EPOCHS": 1, **own})]


def test_a_teacher_of_other_data_is_refused(teacher, tmp_path, capsys):
    said = refused(capsys, *taught(tmp_path, teacher, DATASET__IMAGE_SIZE=4))
    assert "was trained on other data than 'digits': DATASET.IMAGE_SIZE 8 there, 4 here" in said
    said = refused(capsys, *taught(tmp_path, teacher, DATASET__STD="[0.5, 0.5, 0.5]"))
    assert "there, [0.5, 0.5, 0.5] here; give a teacher of these data" in said
    turned = npz(tmp_path / "turned.npz", list("1023456789"))
    asked = {"DATASET__TYPE": "npz", "DATASET__ROOT": turned}
    said = refused(capsys, *taught(tmp_path, teacher, **asked))
    assert "'npz': class 0 is '0' there, '1' here (2 of 10 differ)" in said
    said = refused(capsys, "eval", teacher, "DATASET.TYPE", "npz", "DATASET.ROOT", turned)
    assert "is of other data than 'npz': class 0 is '0' there, '1' here" in said
    assert not list(tmp_path.rglob("metrics.csv"))


def test_the_same_data_from_another_place_are_the_same(teacher, tmp_path, capsys):
    same = npz(tmp_path / "same.npz", list("0123456789"))
    asked = taught(tmp_path, teacher, DATASET__TYPE="npz", DATASET__ROOT=same)
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert "data: 10 classes (0, 1, 2, 3, 4, ...), 14 to 15 training images of each, 8x8" in shown
    assert "does not say which classes" not in shown


def test_a_file_that_says_nothing_is_noted_and_a_teacher_at_chance_warned_of(tmp_path, capsys):
    save_teacher(tmp_path / "student_latest")
    assert main(taught(tmp_path, tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "student_latest does not say which classes, image size, mean and std it was" in shown
    assert "is near chance (10.00): was it trained on these classes, in this order" in shown
    assert main(taught(tmp_path, tmp_path, SOLVER__SEED="1")) == 0  # as in a sweep: said once
    assert "does not say which classes" not in capsys.readouterr().out


def test_classes_count_only_where_labels_do_not_tell(tmp_path):
    """Of a run that labels describe, neither folder nor identity know of DATASET.CLASSES."""
    path = tmp_path / "gaps.npz"
    images = np.zeros((4, 4, 4, 3), np.uint8)
    labels = np.array([0, 1, 0, 1])
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)

    def identity(classes: int) -> dict:
        own = ["DATASET.TYPE", "npz", "DATASET.ROOT", str(path), "DATASET.CLASSES", str(classes)]
        return data_identity(load_dataset(load_config(None, own)))

    assert identity(0) == identity(2) and "DATASET.CLASSES" not in identity(0)
    assert identity(3) == {**identity(0), "DATASET.CLASSES": 3}


def test_scores_for_scripts_are_one_json_object(run, capsys):
    assert main(["eval", str(run), "--json", "DATASET.TEST.BATCH_SIZE", "7"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == pytest.approx(result(run)["last"])
    assert top1(run) in shown.err and shown.out.count("\n") == 1

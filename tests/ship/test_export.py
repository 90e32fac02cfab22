"""A student's file for deployment gives what its checkpoint gives, or is not written."""

import itertools
import json
import shutil
import sys
import time

import pytest
import torch
from support.tiny import BASE, save_teacher, words

from sdkd_plugin import weights
from sdkd_plugin.__main__ import main
from sdkd_plugin.config import load_config
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine.run import train
from sdkd_plugin.models import build_model
from sdkd_plugin.ship import export as module
from sdkd_plugin.ship.arguments import STYLES as OFFERED
from sdkd_plugin.ship.deployed import Deployed
from sdkd_plugin.ship.styles import NOTE, STYLES


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.01)


def make_run(folder, method="KD", **changes):
    teacher = save_teacher(folder / f"teacher-{method}")
    taught = {"DISTILLER.TYPE": method, "DISTILLER.TEACHER_CKPT": teacher, "SOLVER.EPOCHS": 1}
    keys = {**BASE, **taught, "LOG.PREFIX": folder / "out", **changes}
    return train(load_config(None, words(keys))).path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def needs(style: str) -> None:
    if style == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name, reason="needs the extra onnx")


def pixels(run) -> torch.Tensor:
    """The evaluated images, values from 0 to 1, [N, 3, H, W]."""
    raw = load_dataset(load_config(run / "config.yaml")).test.images
    return raw.permute(0, 3, 1, 2).contiguous().float() / 255


def expected(run, images: torch.Tensor) -> torch.Tensor:
    """What the student gives, by nothing of `ship`: its weights in a fresh network."""
    state = weights.load(run / "student_latest")
    net = build_model("resnet8", 10).eval()
    net.load_state_dict(state["model"])
    mean, std = (torch.tensor(state["data"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        return net((images - mean) / std)[0]


@pytest.mark.parametrize("style", STYLES)
def test_the_file_gives_the_checkpoints_logits_for_any_number_of_images(style, run, tmp_path):
    needs(style)
    out = tmp_path / "student"
    assert main(["export", str(run), "--format", style, "--output", str(out)]) == 0
    found = STYLES[style].load(out)
    images = pixels(run)
    with torch.no_grad():
        for n in (1, 2, 7, 360):
            torch.testing.assert_close(
                found(images[:n]), expected(run, images[:n]), rtol=1e-4, atol=1e-4
            )


def test_without_normalisation_it_takes_what_training_took(run, tmp_path, capsys):
    out = str(tmp_path / "student.pt2")
    assert main(["export", str(run), "--no-normalise", "--output", out]) == 0
    data = weights.load(run / "student_latest")["data"]
    assert f"minus mean {data['mean']}, over std {data['std']}" in capsys.readouterr().out
    images = pixels(run)[:5]
    mean, std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        found = STYLES["pt2"].load(tmp_path / "student.pt2")((images - mean) / std)
    torch.testing.assert_close(found, expected(run, images), rtol=1e-4, atol=1e-4)


def test_the_file_says_what_it_takes_and_gives(run, tmp_path):
    out = tmp_path / "student.pt"
    assert main(["export", str(run), "--format", "torchscript", "--output", str(out)]) == 0
    extra = {NOTE: ""}
    torch.jit.load(str(out), _extra_files=extra)
    about = json.loads(extra[NOTE])
    assert about["classes"] == [str(n) for n in range(10)] and about["normalises"] is True
    assert about["input"] == "float32 [N, 3, 8, 8], RGB, values from 0 to 1"
    assert (about["student"], about["teacher"], about["method"]) == ("resnet8", "resnet14", "KD")


def test_an_onnx_file_says_it_too(run, tmp_path):
    needs("onnx")
    import onnxruntime

    out = str(tmp_path / "student.onnx")
    assert main(["export", str(run), "--format", "onnx", "--output", out]) == 0
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map[NOTE])
    assert about["output"] == "logits [N, 10]"
    assert session.get_inputs()[0].shape[1:] == [3, 8, 8]


def test_teacher_and_student_stand_beside_each_other(run, tmp_path, capsys):
    assert main(["export", str(run), "--output", str(tmp_path / "s.pt2")]) == 0
    said = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in said.splitlines()]
    teacher, student, ratio = (
        next(row for row in rows if row[: len(start)] == start)
        for start in (["teacher", "resnet14"], ["student", "resnet8"], ["teacher", "over"])
    )
    sizes = float(teacher[2]), float(student[2])
    assert sizes[0] > sizes[1] > 0.2 and float(ratio[3]) == pytest.approx(
        sizes[0] / sizes[1], rel=0.05
    )
    assert all(float(value) > 0 for row in (teacher, student) for value in row[3:])
    assert "100.00 % of the classes agree" in said


def test_latencies_are_an_images_and_leave_the_first_passes_out(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.3)
    calls = itertools.count()

    def slow(image):
        time.sleep(0.02)

    def compiles(image):
        time.sleep(0.2 if next(calls) < 5 else 0.002)

    one, many = module.BATCHES
    (slow_one, slow_many), (first_one, first_many) = module.latencies([slow, compiles], 8)
    assert slow_one >= 20 / one and slow_many >= 20 / many  # ms an image
    assert slow_many < slow_one / 10
    assert 2 / one <= first_one < slow_one and 2 / many <= first_many < slow_many


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_an_odd_size_and_either_norm_are_exported(style, tmp_path, capsys):
    needs(style)
    run = make_run(tmp_path, "NONE", **{"DATASET.IMAGE_SIZE": 7, "DATASET.SUBSET": 0.05})
    for more in ([], ["--no-normalise"]):
        assert main(["export", str(run), "--format", style, *more]) == 0
        assert "100.00 % of the classes agree" in capsys.readouterr().out


def test_a_run_without_weights_is_one_line(run, tmp_path, capsys):
    alone = shutil.copytree(run, tmp_path / "seed0")
    (alone / "student_latest").unlink()
    assert main(["export", str(alone)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "has no student_latest" in error


@pytest.mark.parametrize("method", ["NONE", "SIMKD"])
def test_what_a_method_deploys_is_exported(method, tmp_path, capsys):
    run = make_run(tmp_path, method)
    assert main(["export", str(run)]) == 0
    assert (run / "student_latest.pt2").exists()
    assert ("teacher" in capsys.readouterr().out.split("parity")[1]) == (method != "NONE")


def test_a_librarys_network_is_exported_out_of_its_wrapper(tmp_path):
    changes = {"DISTILLER.STUDENT": "torchvision:mobilenet_v3_small", "SOLVER.BATCH_SIZE": 24}
    run = make_run(tmp_path, **changes)
    assert main(["export", str(run)]) == 0


def test_a_file_that_gives_something_else_is_not_written(run, tmp_path, monkeypatch, capsys):
    forward = Deployed.forward

    def other(self, image):
        return forward(self, image) + 1e-2

    monkeypatch.setattr(Deployed, "forward", other)
    out = tmp_path / "student.pt2"
    assert main(["export", str(run), "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert "does not give what" in error and "nothing was written" in error and not out.exists()


def test_a_wrong_normalisation_is_seen(run, tmp_path, monkeypatch, capsys):
    """The comparison is with images as training had them, not with itself."""
    init = Deployed.__init__

    def other(self, network, mean=None, std=None):
        init(self, network, mean, None if std is None else tuple(2 * s for s in std))

    monkeypatch.setattr(Deployed, "__init__", other)
    assert main(["export", str(run), "--output", str(tmp_path / "x")]) == 2
    assert "the logits differ by" in capsys.readouterr().err


def test_what_cannot_be_is_one_line(run, tmp_path, monkeypatch, capsys):
    alone = tmp_path / "student_latest"
    alone.write_bytes((run / "student_latest").read_bytes())
    for words_, message in (
        ([str(tmp_path / "nix")], "does not exist"),
        ([str(alone)], "lies in no run's folder"),
        ([str(run), "--output", str(tmp_path / "no" / "x")], "there is no folder"),
        ([str(run), "DATASET.TYPE", "nix"], "unknown data set 'nix'"),
    ):
        assert main(["export", *words_]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and message in error, error


def test_without_onnx_the_extra_is_named(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(run), "--format", "onnx"]) == 2
    assert "pip install 'sdkd-plugin[onnx]'" in capsys.readouterr().err


def test_the_command_line_offers_what_there_is():
    assert set(OFFERED) == set(STYLES) and OFFERED[0] == "pt2"

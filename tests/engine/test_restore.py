"""No run goes on from a checkpoint that is damaged, of another run, or made of something else."""

import copy
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import assert_same_run, contents, metrics, read, tiny_config, tiny_yaml
from support.tiny import train_until_killed as train_until
from yacs.config import CfgNode as CN

from sdkd_plugin import weights
from sdkd_plugin.__main__ import main
from sdkd_plugin.engine.run import train
from sdkd_plugin.errors import UserError

State = dict[str, Any]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A vanilla run that nothing disturbed."""
    return train(tiny_config(tmp_path_factory.mktemp("straight"))).path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """LOG.PREFIX of the same run, stopped in the middle of its third epoch."""
    prefix = tmp_path_factory.mktemp("stopped")
    train_until(tiny_config(prefix), steps=7)
    return prefix


@pytest.fixture
def killed(stopped, tmp_path) -> tuple[CN, Path]:
    """The config and folder of a copy."""
    shutil.copytree(stopped, tmp_path / "runs")
    (latest,) = tmp_path.rglob("latest")
    return tiny_config(tmp_path / "runs"), latest.parent


def flip_a_weight(path: Path) -> None:
    """One bit in the middle of the largest tensor."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
        stored = archive.read(largest)
    content = bytearray(path.read_bytes())
    content[content.index(stored) + len(stored) // 2] ^= 1
    path.write_bytes(content)


def test_one_flipped_bit_in_latest_is_seen_and_the_epoch_before_is_used(straight, killed):
    cfg, folder = killed
    flip_a_weight(folder / "latest")
    torch.load(folder / "latest", weights_only=True)  # torch itself sees nothing
    with pytest.warns(UserWarning) as told:
        train(cfg, resume=True)
    (line,) = [str(warning.message) for warning in told]
    assert line.startswith(f"checkpoint {folder / 'latest'} is damaged: ") and "\n" not in line
    assert line.endswith(f"; going back to {folder / 'latest.previous'}")
    assert_same_run(straight, folder)


def test_two_damaged_checkpoints_are_told_with_what_to_do(killed):
    cfg, folder = killed
    for name in ("latest", "latest.previous"):
        flip_a_weight(folder / name)
    before = contents(folder)
    with pytest.raises(UserError) as caught:
        train(cfg, resume=True)
    told = str(caught.value)
    for part in ("latest is damaged: ", "latest.previous is damaged: ", "copy best over latest"):
        assert part in told
    assert contents(folder) == before

    flip_a_weight(folder / "best")
    with pytest.raises(UserError, match=f"; remove {folder} and start the run again$"):
        train(cfg, resume=True)


def test_what_the_message_says_to_do_works(straight, killed):
    cfg, folder = killed
    for name in ("latest", "latest.previous"):
        (folder / name).write_bytes(b"")
    epoch = read(folder / "best")["epoch"]
    with pytest.raises(UserError, match=f"copy best over latest .* to go on after epoch {epoch}"):
        train(cfg, resume=True)
    shutil.copy(folder / "best", folder / "latest")
    assert_same_run(straight, train(cfg, resume=True).path)


def test_a_run_whose_latest_is_gone_does_not_start_again_by_itself(killed):
    cfg, folder = killed
    for name in ("latest", "latest.previous"):
        (folder / name).unlink()
    before = contents(folder)
    with pytest.raises(UserError, match="has trained epochs but no latest any more; copy best"):
        train(cfg, resume=True)
    assert contents(folder) == before


def without(key: str) -> Callable[[State], Any]:
    return lambda state: state.pop(key)


def put(key: str, value: Any) -> Callable[[State], Any]:
    return lambda state: state.update({key: value})


def row(**cells: Any) -> Callable[[State], Any]:
    return lambda state: state["history"][-1].update(cells)


def group(**settings: Any) -> Callable[[State], Any]:
    return lambda state: state["optimizer"]["param_groups"][0].update(settings)


def momentum(value: Any) -> Callable[[State], Any]:
    return lambda state: state["optimizer"]["state"].update({0: {"momentum_buffer": value}})


def weight(key: str, value: Any) -> Callable[[State], Any]:
    return lambda state: state["model"].update({f"student.{key}": value})


TWO = torch.ones(2)
NAN = torch.full((10,), float("nan"))
SPOILED: dict[str, tuple[Callable[[State], Any], str]] = {
    **{
        f"no {key}": (without(key), rf"lacks or differs in: {key}\)")
        for key in ("epoch", "model", "optimizer", "history", "identity")
    },
    "empty history": (put("history", []), "its history has 0 epochs of 3"),
    "nothing done": (
        lambda state: state.update(history=[], epoch=0),
        "its history has 0 epochs of 3, it is of epoch 0",
    ),
    "history of None": (put("history", None), "its history is no list of epochs"),
    "history of numbers": (put("history", [1, 2]), "its history is no list of epochs"),
    "short history": (lambda state: state["history"].pop(), "has 1 epochs of 3, it is of epoch 2"),
    "long history": (lambda state: state["history"].extend([{}] * 9), "has 11 epochs of 3"),
    "epoch as a tensor": (put("epoch", TWO), "it is of epoch tensor"),
    "another phase": (row(phase="warm"), "its history lacks epoch 2 of phase"),
    "phase as a tensor": (row(phase=TWO), "has no valid phase"),
    "row's epoch as a tensor": (row(epoch=TWO), "has no valid epoch"),
    "nan loss": (row(train_loss=float("nan")), "has no valid train_loss"),
    "top-1 as a word": (row(test_top1="high"), "has no valid test_top1"),
    "no seconds": (lambda state: state["history"][-1].pop("train_seconds"), "valid train_seconds"),
    "numbered column": (lambda state: state["history"][-1].update({3: 1.0}), "has no valid 3"),
    "identity as a list": (put("identity", [1]), r"differs in: identity\)"),
    "identity of tensors": (put("identity", {"SOLVER.LR": TWO}), r"differs in: identity\)"),
    "identity of none": (put("identity", {}), r"differs in: identity\)"),
    "model as a list": (put("model", [1]), "its model is no state_dict"),
    "model lacks a weight": (lambda state: state["model"].pop("student.fc.bias"), "lacks or has"),
    "unknown weight": (weight("more", TWO), "lacks or has unknown 'student.more'"),
    "another shape": (weight("fc.bias", TWO), "'student.fc.bias' in its model is of another shape"),
    "another type": (weight("fc.bias", NAN.double()), "'student.fc.bias' in its model is of anoth"),
    "sparse": (weight("fc.bias", torch.zeros(10).to_sparse()), "'student.fc.bias' in its model is"),
    "meta": (weight("fc.bias", torch.zeros(10, device="meta")), "'student.fc.bias' in its model"),
    "nan weight": (weight("fc.bias", NAN), "'student.fc.bias' in its model holds values that are"),
    "optimizer as a list": (put("optimizer", []), "its optimizer has no state and param_groups"),
    "no groups": (lambda state: state["optimizer"].update(param_groups=[]), "number of groups"),
    "another momentum": (group(momentum=0.5), "its optimizer has another momentum"),
    "momentum as a tensor": (group(momentum=TWO), "its optimizer has another momentum"),
    "parameters as tensors": (group(params=[TWO]), "its optimizer has another params"),
    "buffer of another shape": (momentum(TWO), "momentum 0 of its optimizer is of another shape"),
    "buffer as a word": (momentum("x"), "momentum 0 of its optimizer is of another shape"),
    "unknown state": (
        lambda state: state["optimizer"]["state"].update({"x": {}}),
        "its optimizer has the strange state 'x'",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_state_that_is_not_this_runs_is_refused_by_name(name, killed):
    """Saved whole, with a digest that fits: no checksum can see it."""
    spoil, message = SPOILED[name]
    cfg, folder = killed
    state = copy.deepcopy(weights.load(folder / "latest"))
    spoil(state)
    for path in (folder / "latest", folder / "latest.previous", folder / "best"):
        torch.save(state, path)
    before = contents(folder)
    with pytest.raises(UserError, match=message) as caught:
        train(cfg, resume=True)
    assert "\n" not in str(caught.value) and "start the run again" in str(caught.value)
    assert contents(folder) == before


def test_a_folder_of_the_version_before_goes_on(straight, killed):
    """It wrote no digests and no first steps; its zips are what torch.save makes of the states."""
    cfg, folder = killed
    for name in ("latest", "latest.previous", "best", "student_latest", "student_best"):
        torch.save(weights.load(folder / name), folder / name)
        assert weights.DIGEST not in torch.load(folder / name, weights_only=True)
    (folder / "first_steps.json").unlink()
    assert_same_run(straight, train(cfg, resume=True).path)
    assert len(metrics(folder)) == 3 and not (folder / "first_steps.json").exists()


RECORDS = [
    ("identity.json", "[1]", "holds list, not an object"),
    ("identity.json", "null", "holds NoneType, not an object"),
    ("identity.json", '{"a": ', "is no valid json"),
    ("identity.json", "{}", "holds a run with another config"),
    ("result.json", "{}", "lacks "),
    ("result.json", "[1]", "result.json"),
    ("environment.json", "[1]", "holds list, not an object"),
    (
        "environment.json",
        '{"threads": "two"}',
        "environment.threads is 'two'; it must be a whole number from 1",
    ),
    (
        "environment.json",
        '{"threads": 0}',
        "environment.threads is 0; it must be a whole number from 1",
    ),
    ("environment.json", '{"plugins": [1]}', "environment.plugins is .* modules, each with its"),
]


@pytest.mark.parametrize(("file", "text", "message"), RECORDS)
def test_a_malformed_record_is_one_line_and_nothing_is_written(file, text, message, killed, capsys):
    cfg, folder = killed
    (folder / file).write_text(text)
    yaml = folder.parents[3] / "tiny.yaml"
    yaml.write_text(cfg.dump())
    before = contents(folder)
    assert main(["train", "--cfg", str(yaml), "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert str(folder) in error
    with pytest.raises(UserError, match=message):
        train(cfg, resume=True)
    assert contents(folder) == before


def test_resuming_twice_over_a_damaged_file_keeps_the_good_one(killed, tmp_path):
    cfg, folder = killed
    flip_a_weight(folder / "latest")
    with pytest.warns(UserWarning, match="is damaged.*going back to"):
        train_until(cfg, steps=0, resume=True)
    assert read(folder / "latest")["epoch"] == 1
    train_until(cfg, steps=0, resume=True)  # no warning now
    assert read(folder / "latest")["epoch"] == 1


def test_eval_and_teachers_are_verified_too(straight, tmp_path, capsys):
    path = tmp_path / "student"
    shutil.copy(straight / "student_latest", path)
    flip_a_weight(path)
    evaluate = ["eval", "-m", "resnet8", "-d", "digits", "-c", str(path)]
    assert main(evaluate) == 2
    assert f"checkpoint {path} is damaged: " in capsys.readouterr().err
    teaching = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet8"]
    yaml = tiny_yaml(tmp_path)
    command = ["train", "--cfg", yaml, *teaching, "DISTILLER.TEACHER_CKPT", str(path)]
    assert main(command) == 2
    assert f"checkpoint {path} is damaged: " in capsys.readouterr().err

    state = weights.load(straight / "student_latest")
    state["model"]["layer1.0.conv1.weight"][0, 0, 0, 0] = float("inf")
    torch.save(state, path)
    for words in (evaluate, command):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "'layer1.0.conv1.weight' holds 1 of 2304 values that are NaN or infinite" in error
        assert error.count("\n") == 1

"""The command line: whatever the user gets wrong is one line on stderr and exit code 2.

And nothing is lost.
"""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import contents, read, save_teacher, tiny_yaml

from sdkd_plugin import __version__
from sdkd_plugin.__main__ import main, warnings_in_one_line
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.models import build_model


class Malicious:
    """Unpickling this creates the file "was_run" in the working directory."""

    def __reduce__(self):
        return os.system, ("touch was_run",)


def write_npz(path: Path, **changes) -> None:
    images = np.zeros((8, 8, 8, 3), np.uint8)
    arrays = {
        "x_train": images,
        "y_train": np.arange(8) % 2,
        "x_test": images,
        "y_test": np.arange(8) % 2,
    }
    np.savez(path, **{**arrays, **changes})


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working directory with a yaml, a finished run and every kind of broken file."""
    folder = tmp_path_factory.mktemp("place")
    tiny_yaml(folder, {"LOG.PREFIX": "runs", "SOLVER.EPOCHS": 1})
    save_teacher(folder / "teacher")
    save_teacher(folder / "hundred", num_classes=100)
    save_teacher(folder / "resnet20", "resnet20")
    (folder / "cut").write_bytes((folder / "teacher").read_bytes()[:20000])
    torch.save(
        {"model": {**build_model("resnet14", 10).state_dict(), "x": Malicious()}},
        folder / "malicious",
    )
    write_npz(folder / "float.npz", x_train=np.zeros((8, 8, 8, 3), np.float32))
    write_npz(folder / "labels.npz", y_test=np.full(8, 7))
    write_npz(folder / "negative.npz", y_train=np.arange(8) - 1)
    for name, text in (
        ("broken", "{"),
        ("empty", ""),
        ("key", "SOLVER: {LERNRATE: 1}"),
        ("list", "- SOLVER"),
    ):
        (folder / f"{name}.yaml").write_text(text)
    here = os.getcwd()
    os.chdir(folder)
    assert main(["train", "--cfg", "tiny.yaml"]) == 0
    os.chdir(here)
    return folder


KD = "DISTILLER.TYPE KD DISTILLER.TEACHER_CKPT"
NPZ = "DATASET.TYPE npz DATASET.SUBSET 1 SOLVER.BATCH_SIZE 4 DATASET.ROOT"
BAD_RUNS = [
    (
        "SOLVER.LERNRATE 1",
        "unknown config key 'SOLVER.LERNRATE' in the command line: did you mean 'SOLVER.",
    ),
    ("SOLVR.LR 1", "did you mean 'SOLVER'?"),
    ("DISTILLER.TYPE KDD", "unknown method 'KDD' in DISTILLER.TYPE: did you mean 'KD'?"),
    ("DISTILLER.STUDENT resnet21", "unknown model 'resnet21'"),
    (
        "DISTILLER.TYPE KD DISTILLER.TEACHER resnet55",
        "unknown model 'resnet55' in DISTILLER.TEACHER",
    ),
    ("DATASET.TYPE cifar", "unknown data set 'cifar' in DATASET.TYPE: did you mean 'cifar100'?"),
    ("SOLVER.LR", "'SOLVER.LR' has no partner"),
    ("SOLVER.LR 1 --resume", "option --resume stands among the KEY VALUE overrides"),
    ("SOLVER.LR a", "SOLVER.LR in the command line is 'a' (str); allowed: float"),
    ("SOLVER.EPOCHS True", "is True (bool); allowed: int"),
    ("SOLVER.EPOCHS 0", "SOLVER.EPOCHS is 0; allowed: from 1"),
    ("SOLVER.MOMENTUM -1", "SOLVER.MOMENTUM is -1.0; allowed: from 0.0 to 1.0"),
    (
        "SOLVER.BATCH_SIZE 144",
        "SOLVER.BATCH_SIZE is 144; allowed: 1 to 143, the number of training images",
    ),
    ("SOLVER.PRECISION fp16 SOLVER.DEVICE cpu", "SOLVER.PRECISION is 'fp16', which needs CUDA"),
    ("LOG.PREFIX tiny.yaml", "run folder tiny.yaml/distill/"),
    (f"{KD} nix", "teacher checkpoint nix (DISTILLER.TEACHER_CKPT) does not exist"),
    (f"{KD} hundred", "checkpoint hundred was trained for 100 classes, the data set has 10"),
    (f"{KD} cut", "checkpoint cut cannot be read, it is truncated"),
    (f"{KD} malicious", "checkpoint malicious is refused"),
    (f"{KD} resnet20", "checkpoint resnet20 is not for model 'resnet14'"),
    (f"{KD} tiny.yaml", "checkpoint tiny.yaml is refused: it is no torch file"),
    (f"{NPZ} nix.npz", "'nix.npz' cannot be read"),
    (f"{NPZ} float.npz", "array 'x_train' of 'float.npz' is float32 [8, 8, 8, 3]; allowed: uint8"),
    (f"{NPZ} labels.npz", "array 'y_test' of 'labels.npz' holds the label 7; allowed: 0 to 1"),
    (f"{NPZ} negative.npz", "array 'y_train' of 'negative.npz' holds the label -1"),
    (f"{NPZ} tiny.yaml", "DATASET.ROOT 'tiny.yaml' cannot be read as an npz file"),
    ("DATASET.IMAGE_SIZE 16", "DATASET.IMAGE_SIZE is 16 but a stored image is 8x8"),
    (
        "SOLVER.EPOCHS 2 SOLVER.LR 1e20",
        "loss is not finite at epoch 1, step 2: loss_ce = nan; lower SOLVER.LR",
    ),
]
BAD_COMMANDS = [
    (["train", "--cfg", ""], "--cfg is empty; give a yaml file"),
    (["train", "--cfg", "nix.yaml"], "config file 'nix.yaml' cannot be read: No such file"),
    (["train", "--cfg", "broken.yaml"], "config file 'broken.yaml' is no valid yaml"),
    (["train", "--cfg", "empty.yaml"], "config file 'empty.yaml' holds NoneType"),
    (["train", "--cfg", "list.yaml"], "config file 'list.yaml' holds list"),
    (["train", "--cfg", "key.yaml"], "unknown config key 'SOLVER.LERNRATE' in key.yaml"),
    (
        ["train", "--cfg", "tiny.yaml", "--dry-run", "DISTILLER.STUDENT", "resnet21"],
        "unknown model 'resnet21'",
    ),
    (
        ["train", "--cfg", "tiny.yaml", "--train-teacher", *f"{KD} nix".split()],
        "teacher checkpoint nix",
    ),
    (
        ["eval", "-m", "resnet14", "-d", "digits"],
        "download_ckpts/cifar_teachers/resnet14_vanilla/ckpt_epoch_240.pth does not exist",
    ),
    (["eval", "-m", "resnet13", "-d", "digits", "-c", "teacher"], "unknown model 'resnet13'"),
    (["eval", "-m", "resnet14", "-d", "digit", "-c", "teacher"], "unknown data set 'digit'"),
    (["eval", "-m", "resnet14", "-d", "digits", "-c", "hundred"], "was trained for 100 classes"),
    (["eval", "-m", "resnet14", "-d", "digits", "-c", "cut"], "truncated"),
    (["eval", "-m", "resnet14", "-d", "digits", "-c", "malicious"], "refused"),
    (
        ["eval", "-m", "resnet14", "-d", "digits", "-c", "teacher", "-bs", "0"],
        "DATASET.TEST.BATCH_SIZE is 0",
    ),
    (
        ["eval", "-m", "resnet14", "-d", "digits", "-c", "teacher", "SOLVER.LR"],
        "'SOLVER.LR' has no partner",
    ),
]
COMMANDS = [
    (["train", "--cfg", "tiny.yaml", *words.split()], message) for words, message in BAD_RUNS
] + BAD_COMMANDS


@pytest.mark.parametrize(
    ("command", "message"), COMMANDS, ids=lambda part: part if isinstance(part, str) else None
)
def test_a_users_mistake_is_one_line_and_exit_code_2(command, message, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = contents(place)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error
    assert message in error
    begun = {name for name in contents(place) if name.startswith("runs/") and name not in before}
    assert {
        name: value for name, value in contents(place).items() if name not in begun
    } == before, "a file was changed"
    assert not [name for name in begun if name.endswith(("latest", "result.json"))]
    assert not (place / "was_run").exists()


def test_without_cuda_asking_for_it_is_a_mistake(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", "--cfg", "tiny.yaml", "SOLVER.SEED", "9", "SOLVER.DEVICE", "cuda"]) == 2
    assert (
        "SOLVER.DEVICE is 'cuda', but torch sees no CUDA device here; allowed: auto, cpu"
        in capsys.readouterr().err
    )


def test_a_missing_teacher_is_told_where_to_come_from(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert (
        main(
            ["train", "--cfg", "tiny.yaml", "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet56"]
        )
        == 2
    )
    error = capsys.readouterr().err
    for part in (
        "download_ckpts/cifar_teachers/resnet56_vanilla/ckpt_epoch_240.pth",
        "mdistiller publishes it (cifar_teachers.tar)",
        "python tools/train.py --cfg configs/cifar100/vanilla/resnet56.yaml",
        "DISTILLER.TEACHER_CKPT",
        "--train-teacher",
    ):
        assert part in error
    assert main(["train", "--cfg", "tiny.yaml", "DISTILLER.TYPE", "KD"]) == 2
    assert "nobody publishes one" in capsys.readouterr().err


def test_the_malicious_file_would_have_run(place, monkeypatch):
    """Else its refusal above shows nothing."""
    monkeypatch.chdir(place)
    torch.load("malicious", weights_only=False)
    assert (place / "was_run").exists()
    (place / "was_run").unlink()


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["nix"],
        ["train"],
        ["train", "--cfg"],
        ["train", "--cfg", "x", "--nix"],
        ["eval", "-bs", "x"],
    ],
)
def test_a_mistyped_command_is_told_in_one_line_with_where_to_look(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main(command)
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert re.fullmatch(r"error: .+; see: sdkd_plugin( train| eval)? --help", line)


def test_version_and_help(capsys):
    for option, text in (("--version", __version__), ("--help", "train")):
        with pytest.raises(SystemExit) as caught:
            main([option])
        assert caught.value.code == 0 and text in capsys.readouterr().out


def test_a_warning_is_one_line_without_a_place_in_our_code():
    before = warnings.formatwarning
    with warnings_in_one_line():
        text = warnings.formatwarning("latest is\n  damaged", UserWarning, "recorder.py", 99)
    assert text == "warning: latest is damaged\n"
    assert warnings.formatwarning is before


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    yaml, whole_step, calls = tiny_yaml(tmp_path), Trainer.step, iter(range(100))

    def step(self, *arguments):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return whole_step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", step)
    assert main(["train", "--cfg", yaml]) == 130
    assert "add --resume" in capsys.readouterr().err
    assert read(next(tmp_path.rglob("latest")))["epoch"] == 1
    monkeypatch.undo()
    assert main(["train", "--cfg", yaml, "--resume"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["-m", "sdkd_plugin", "train"], [Path(__file__).parents[1] / "tools" / "train.py"]]
)
def test_as_a_process_stderr_is_that_one_line(command, place):
    run = subprocess.run(
        [sys.executable, *command, "--cfg", "tiny.yaml", "SOLVER.LR", "a"],
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert (
        run.stderr
        == "error: SOLVER.LR in the command line is 'a' (str); allowed: float, such as 0.05\n"
    )

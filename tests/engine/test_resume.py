"""A run interrupted and resumed ends with the bits of one that was not, whatever stopped it."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cases import CASES, Case
from support.tiny import (
    assert_bits_equal,
    assert_same_run,
    contents,
    method_overrides,
    metrics,
    read,
    tiny_config,
    tiny_yaml,
    train_until_killed,
)

from sdkd_plugin import weights
from sdkd_plugin.__main__ import main
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.errors import UserError


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A vanilla run that nothing disturbed."""
    return train(tiny_config(tmp_path_factory.mktemp("straight"))).path


@pytest.fixture
def killed(tmp_path) -> tuple:
    """The config and folder of the same run, stopped in the middle of its third epoch."""
    cfg = tiny_config(tmp_path)
    train_until_killed(cfg, steps=7)
    (latest,) = tmp_path.rglob("latest")
    return cfg, latest.parent


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_method_resumes_to_the_bit(case: Case, teacher, tmp_path):
    overrides = method_overrides(case, teacher)
    steps, counted = [], Trainer.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Trainer,
            "step",
            lambda self, *arguments: (steps.append(1), counted(self, *arguments))[1],
        )
        whole = train(tiny_config(tmp_path / "whole", overrides)).path
    cfg = tiny_config(tmp_path / "parts", overrides)
    train_until_killed(cfg, steps=len(steps) // 2 + 1)
    (latest,) = (tmp_path / "parts").rglob("latest")
    half, done = read(latest), len(metrics(latest.parent))
    assert 0 < done < len(metrics(whole))
    # once more: what is resumed must be resumable
    train_until_killed(cfg, steps=len(steps) // 3, resume=True)
    parts = train(cfg, resume=True).path
    assert_same_run(whole, parts)
    assert any(
        not torch.equal(value, half["model"][key])
        for key, value in read(parts / "latest")["model"].items()
    )


def test_a_librarys_student_with_dropout_resumes_to_the_bit(tmp_path):
    overrides = {"DISTILLER.STUDENT": "torchvision:mobilenet_v3_small"}
    whole = train(tiny_config(tmp_path / "whole", overrides)).path
    cfg = tiny_config(tmp_path / "parts", overrides)
    train_until_killed(cfg, steps=7)
    assert_same_run(whole, train(cfg, resume=True).path)


def test_a_run_killed_before_its_first_epoch_ended_starts_again(straight, tmp_path):
    cfg = tiny_config(tmp_path)
    train_until_killed(cfg, steps=2)
    assert not list(tmp_path.rglob("latest"))
    assert_same_run(straight, train(cfg, resume=True).path)


def test_a_run_killed_while_it_began_starts_again(straight, killed):
    cfg, folder = killed
    for path in folder.iterdir():
        if path.name not in (".lock", "identity.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert_same_run(straight, train(cfg, resume=True).path)
    assert {"config.yaml", "environment.json"} <= {path.name for path in folder.iterdir()}
    (folder / "identity.json").unlink()
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    # killed even earlier: inside the first write
    (folder / ".identity.json.x1y2").write_text('{"torn')
    assert_same_run(straight, train(cfg).path)


def test_a_run_killed_between_its_last_epoch_and_its_result_only_writes_the_result(
    straight, tmp_path
):
    cfg = tiny_config(tmp_path)
    folder = train(cfg).path
    (folder / "result.json").unlink()
    before = contents(folder)["latest"]
    assert_same_run(straight, train(cfg, resume=True).path)
    assert contents(folder)["latest"] == before


def test_what_a_killed_process_was_writing_is_cleared_away(killed):
    cfg, folder = killed
    (folder / ".latest.a1b2c3").write_bytes(b"half a checkpoint")
    train(cfg, resume=True)
    assert not list(folder.glob(".latest.*"))


def test_a_damaged_latest_falls_back_to_the_epoch_before(straight, killed):
    cfg, folder = killed
    assert read(folder / "latest")["epoch"] == 2
    truncate(folder / "latest")
    with pytest.warns(
        UserWarning, match=r"latest cannot be read.*going back to .*latest\.previous"
    ):
        train_until_killed(cfg, steps=0, resume=True)
    assert len(metrics(folder)) == 1
    assert_same_run(straight, train(cfg, resume=True).path)


def test_the_damaged_file_never_becomes_the_previous_one(killed, monkeypatch):
    """Else a kill during the first save after the fallback would leave no good file at all."""
    cfg, folder = killed
    truncate(folder / "latest")
    monkeypatch.setattr(torch, "save", fail_with(OSError(errno.EIO, "Input/output error")))
    with pytest.warns(UserWarning), pytest.raises(UserError, match="cannot be written"):
        train(cfg, resume=True)
    assert read(folder / "latest")["epoch"] == 1


def test_a_kill_between_the_two_renames_of_a_save_loses_nothing(straight, killed):
    cfg, folder = killed
    os.replace(folder / "latest", folder / "latest.previous")
    assert_same_run(straight, train(cfg, resume=True).path)


def test_two_damaged_checkpoints_are_an_error(killed):
    cfg, folder = killed
    truncate(folder / "latest")
    (folder / "latest.previous").write_bytes(b"")
    before = contents(folder)
    with pytest.raises(UserError, match=r"latest cannot be read, it is truncated"):
        train(cfg, resume=True)
    assert contents(folder) == before


def test_another_runs_checkpoint_is_refused(straight, killed, tmp_path):
    cfg, folder = killed
    other = train(tiny_config(tmp_path / "other", {"SOLVER.SEED": 1})).path
    shutil.copy(other / "latest", folder / "latest")
    with pytest.warns(UserWarning, match="latest is not of this run"):
        train_until_killed(cfg, steps=0, resume=True)  # the previous one is its own
    shutil.copy(other / "student_latest", folder / "latest")
    (folder / "latest.previous").unlink(missing_ok=True)
    with pytest.raises(
        UserError,
        match=r"latest is not of this run \(lacks.*: epoch, history, identity, optimizer\)",
    ):
        train(cfg, resume=True)


def fail_with(error: Exception):
    def fail(*arguments):
        raise error

    return fail


def full_disk_at(call: int):
    """An os.fsync that reports a full disk from its `call`-th call on, counted from 0."""
    calls, real = iter(range(10**6)), os.fsync

    def fsync(handle: int) -> None:
        if next(calls) >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    return fsync


@pytest.mark.parametrize("call", [0, 1, 4, 5, 7, 8, 9])
def test_a_disk_that_fills_up_costs_at_most_the_epoch_that_was_being_saved(
    call, straight, tmp_path, capsys
):
    yaml = tiny_yaml(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full_disk_at(call))
        assert main(["train", "--cfg", yaml]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left on device" in error
    assert not [path for path in tmp_path.rglob(".*.*")], "a temporary file is left"
    for path in tmp_path.rglob("*latest"):
        read(path)
    assert main(["train", "--cfg", yaml, "--resume"]) == 0
    assert_same_run(straight, next(tmp_path.rglob("latest")).parent)


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, to mount a tiny disk that really fills up"
)
def test_a_disk_that_is_really_full(straight, tmp_path, capsys):
    yaml, disk = tiny_yaml(tmp_path), tmp_path / "runs"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        assert main(["train", "--cfg", yaml]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "No space left on device" in error
        (latest,) = disk.rglob("latest")
        assert read(latest)["epoch"] >= 1
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        assert main(["train", "--cfg", yaml, "--resume"]) == 0
        assert_same_run(straight, latest.parent)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_sigkill_at_random_moments(teacher, tmp_path):
    overrides = {
        "DISTILLER.TYPE": "DKD",
        "DISTILLER.TEACHER_CKPT": teacher,
        "DATASET.SUBSET": 0.3,
        "SOLVER.EPOCHS": 30,
    }
    command = [sys.executable, "-m", "sdkd_plugin", "train", "--resume", "--cfg"]
    folders = [tmp_path / "straight", tmp_path / "killed"]
    yamls = [folder.mkdir() or tiny_yaml(folder, overrides) for folder in folders]
    began = time.monotonic()
    subprocess.run([*command, yamls[0]], check=True, capture_output=True)
    longest = time.monotonic() - began
    delays, kills = [], 0
    while kills < 3:
        process = subprocess.Popen(
            [*command, yamls[1]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        delays.append(random.SystemRandom().uniform(0.2 * longest, longest))
        try:
            process.wait(delays[-1])
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            kills += 1
        else:  # it was faster than the first
            if kills:
                break
            shutil.rmtree(folders[1] / "runs")
            longest /= 2
    last = subprocess.run([*command, yamls[1]], capture_output=True, text=True)
    assert last.returncode == 0, f"{last.stderr} after kills at {delays}"
    one, two = (next(folder.rglob("result.json")).parent for folder in folders)
    assert_same_run(one, two)
    assert not list(two.glob(".*.*"))


def test_bits_are_compared_and_not_just_keys():
    """Guards the guard: these two differ in one bit of one number."""
    one = {"a": [torch.tensor([1.0])]}
    with pytest.raises(AssertionError, match="/a/0"):
        assert_bits_equal(one, {"a": [torch.nextafter(one["a"][0], torch.tensor(2.0))]})


def test_checkpoint_module_is_what_the_trainer_uses(killed):
    _, folder = killed
    assert weights.load(folder / "latest").keys() == {
        "epoch",
        "model",
        "optimizer",
        "best_acc",
        "history",
        "identity",
    }

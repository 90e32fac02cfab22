"""SIGTERM and SIGHUP end a command as Ctrl-C does: one line, the shell's exit code, nothing half
written.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.tiny import assert_same_run, read, tiny_config, tiny_yaml

from sdkd_plugin import signals
from sdkd_plugin.__main__ import main
from sdkd_plugin.engine import checkpoint
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.signals import Interrupted, exit_code, interruptible, signal_of

ENDING = [
    pytest.param(signal.SIGTERM, 143, id="SIGTERM"),
    pytest.param(signal.SIGHUP, 129, id="SIGHUP"),
    pytest.param(signal.SIGINT, 130, id="SIGINT"),
]


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """A terminal's handlers, however the tests were started: in the background some are ignored."""
    usual = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    former = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A vanilla run that nothing disturbed."""
    return train(tiny_config(tmp_path_factory.mktemp("straight"))).path


def kill_here(number: int) -> None:
    os.kill(os.getpid(), number)


def at_call(call: int, number: int, real):
    """`real`, which gets a signal in its `call`-th call, counted from 0."""
    calls = iter(range(10**6))

    def function(*arguments, **options):
        if next(calls) == call:
            kill_here(number)
        return real(*arguments, **options)

    return function


@pytest.mark.parametrize(("number", "code"), ENDING)
def test_a_run_that_is_ended_says_so_in_one_line_and_goes_on(
    number, code, straight, tmp_path, monkeypatch, capsys
):
    yaml = tiny_yaml(tmp_path)
    monkeypatch.setattr(Trainer, "step", at_call(4, number, Trainer.step))
    assert main(["train", "--cfg", yaml]) == code
    assert capsys.readouterr().err == (
        f"interrupted by {number.name}: the last complete epoch is saved; add --resume to go on\n"
    )
    (latest,) = tmp_path.rglob("latest")
    assert read(latest)["epoch"] == 1 and not list(tmp_path.rglob(".*.*"))
    monkeypatch.undo()
    assert main(["train", "--cfg", yaml, "--resume"]) == 0
    assert_same_run(straight, latest.parent)


@pytest.mark.parametrize("call", range(0, 12, 3))
def test_a_signal_while_a_file_is_written_leaves_no_piece_of_it(
    call, straight, tmp_path, monkeypatch, capsys
):
    yaml = tiny_yaml(tmp_path)
    monkeypatch.setattr(os, "fsync", at_call(call, signal.SIGTERM, os.fsync))
    assert main(["train", "--cfg", yaml]) == 143
    assert capsys.readouterr().err.startswith("interrupted by SIGTERM: ")
    assert not list(tmp_path.rglob(".*.*"))
    monkeypatch.undo()
    assert main(["train", "--cfg", yaml, "--resume"]) == 0
    (latest,) = tmp_path.rglob("latest")
    assert_same_run(straight, latest.parent)


def test_a_signal_inside_torchs_writer_ends_the_command(tmp_path, monkeypatch):
    """And the half file is gone."""

    class File:
        def __init__(self, file):
            self.file = file

        def write(self, content) -> int:
            kill_here(signal.SIGTERM)
            return self.file.write(content)

        def flush(self) -> None:
            self.file.flush()

    save = torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: save(state, File(file)))
    with pytest.raises(Interrupted), interruptible():
        checkpoint.save({"a": torch.zeros(10**5)}, tmp_path / "latest")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), ENDING[:2])
def test_the_process_itself_ends_so(number, code, tmp_path):
    yaml = tiny_yaml(tmp_path, {"SOLVER.EPOCHS": 500})
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "sdkd_plugin", "train", "--cfg", yaml],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("train 2/500"):
                break
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert error.splitlines()[-1].startswith(f"interrupted by {number.name}: ")
    assert "Traceback" not in error
    assert read(next(tmp_path.rglob("latest")))["epoch"] >= 2
    assert not list(tmp_path.rglob(".*.*"))


@pytest.mark.parametrize(("number", "code"), ENDING[:2])
def test_inside_the_block_they_raise_and_after_it_they_act_as_before(number, code):
    heard = []
    former = signal.signal(number, lambda *arguments: heard.append(number))
    try:
        with pytest.raises(Interrupted) as caught, interruptible():
            kill_here(number)
        assert (signal_of(caught.value), exit_code(caught.value)) == (number, code)
        assert isinstance(caught.value, KeyboardInterrupt) and heard == []
        kill_here(number)
        assert heard == [number]
    finally:
        signal.signal(number, former)


def test_ctrl_c_has_its_own_exit_code():
    assert exit_code(KeyboardInterrupt()) == 130


def test_what_is_ignored_stays_ignored():
    """`nohup` starts a command so."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            kill_here(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_second_signal_does_not_break_into_the_cleaning_up():
    with pytest.raises(Interrupted) as caught, interruptible():
        try:
            kill_here(signal.SIGTERM)
        finally:
            kill_here(signal.SIGHUP)
            kill_here(signal.SIGTERM)
            cleaned = True
    assert cleaned and caught.value.number == signal.SIGTERM


def test_one_that_comes_later_is_another_wish(monkeypatch):
    monkeypatch.setattr(signals, "TOGETHER", 0.0)
    with pytest.raises(Interrupted) as caught, interruptible():
        try:
            kill_here(signal.SIGTERM)
        finally:
            kill_here(signal.SIGHUP)
    assert caught.value.number == signal.SIGHUP


def test_outside_the_main_thread_nothing_is_changed():
    seen = []

    def look() -> None:
        with interruptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]

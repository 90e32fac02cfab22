"""One run by several processes, really started: two, over gloo, on the CPU."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.tiny import (
    metrics,
    result,
    save_teacher,
    tiny_config,
    tiny_yaml,
    train_until_killed,
)

from sdkd_plugin.__main__ import main
from sdkd_plugin.config import load_config
from sdkd_plugin.data.batches import TrainBatches
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine import run
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.ranks import Ranks
from sdkd_plugin.errors import UserError

SCRIPT = Path(__file__).parents[1] / "support" / "first_gradient.py"


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def start(rank: int, port: str, *words: str, size: int = 2) -> subprocess.Popen:
    """A process of a run, as torchrun or SLURM starts it."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, **place, **master},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(*words: str) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of two processes."""
    port = free_port()
    processes = [start(rank, port, *words) for rank in (0, 1)]
    told = [process.communicate(timeout=300) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, told, strict=True)]


def train_words(yaml: str, *more: str) -> tuple[str, ...]:
    return ("-m", "sdkd_plugin", "train", "--cfg", yaml, *more)


@pytest.fixture
def yaml_of(tmp_path):
    teacher = save_teacher(tmp_path / "teacher.pth")

    def make(method: str, **overrides) -> str:
        keys = {"DISTILLER.TYPE": method, "DISTILLER.TEACHER_CKPT": teacher}
        return tiny_yaml(tmp_path, {**keys, **overrides})

    return make


def test_the_shares_of_two_ranks_are_the_batches_of_one(tmp_path):
    cfg = load_config(tiny_yaml(tmp_path))
    dataset = load_dataset(cfg)
    alone = list(TrainBatches(dataset, cfg, "cpu").epoch(2))
    shares = [list(TrainBatches(dataset, cfg, "cpu", 0, rank, 2).epoch(2)) for rank in (0, 1)]
    for whole, *parts in zip(alone, *shares, strict=True):
        image = torch.empty_like(whole.image)
        for rank, part in enumerate(parts):
            image[rank::2] = part.image
            assert torch.equal(part.target, whole.target[rank::2])
            assert part.count == len(whole.target)
        assert torch.equal(image, whole.image)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["NONE", "KD", "SDKD", "DML", "KD dot"])
def test_the_first_gradient_is_that_of_one_process(method, yaml_of, tmp_path):
    """Of both losses apart, with DOT."""
    method, _, optimizer = method.partition(" ")
    yaml = yaml_of(method, **{"SOLVER.OPTIMIZER": optimizer or "sgd"})
    files = [str(tmp_path / name) for name in ("one.pth", "two.pth")]
    subprocess.run([sys.executable, SCRIPT, yaml, files[0]], check=True, timeout=300)
    for code, _, error in together(str(SCRIPT), yaml, files[1]):
        assert code == 0, error
    one, two = (torch.load(file) for file in files)
    assert one["gradients"].keys() == two["gradients"].keys() and one["gradients"]
    for name, wanted in one["gradients"].items():
        scale = wanted.abs().max()
        assert (two["gradients"][name] - wanted).abs().max() <= 1e-6 * max(scale, 1.0), name
    assert two["scores"] == pytest.approx(one["scores"], abs=1e-5)


@pytest.mark.slow
def test_two_processes_train_one_run_and_one_of_them_writes(yaml_of, tmp_path):
    (code, said, error), (other_code, other_said, other_error) = together(
        *train_words(yaml_of("KD"))
    )
    assert (code, other_code) == (0, 0), error + other_error
    assert said.count("train 3/3") == 1 and other_said == ""
    (folder,) = {path.parent for path in tmp_path.rglob("result.json")}
    assert result(folder)["processes"] == 2
    assert [row["processes"] for row in metrics(folder)] == ["2", "2", "2"]
    assert not (folder / "first_steps.json").exists()

    again, _ = together(*train_words(yaml_of("KD")))
    assert again[0] == 0 and "holds this run, finished" in again[1]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(yaml_of, tmp_path):
    yaml = yaml_of("KD")
    train_until_killed(load_config(yaml), steps=4)
    for code, _, error in together(*train_words(yaml, "--resume")):
        assert code == 0, error
    (folder,) = {path.parent for path in tmp_path.rglob("result.json")}
    assert [row["processes"] for row in metrics(folder)] == ["", "2", "2"]
    assert json.loads((folder / "result.json").read_text())["epochs"] == 3


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others_with_a_message(yaml_of, tmp_path):
    yaml = yaml_of("KD", **{"DATASET.SUBSET": 1.0, "SOLVER.EPOCHS": 200})
    port = free_port()
    first, second = (start(rank, port, *train_words(yaml)) for rank in (0, 1))
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("latest")) and time.monotonic() < deadline:
        time.sleep(0.1)
    second.send_signal(signal.SIGKILL)
    _, error = first.communicate(timeout=120)
    second.communicate()
    assert first.returncode == 2
    (line,) = [text for text in error.splitlines() if text.startswith("error:")]
    assert "process 0 of 2 lost the others" in line and "--resume" in line


WHOLE = {
    "RKD": {"DISTILLER.TYPE": "RKD"},
    "SDKD.TEACHER_FEATURES shuffled": {
        "DISTILLER.TYPE": "SDKD",
        "SDKD.TEACHER_FEATURES": "shuffled",
    },
}


@pytest.mark.parametrize("reason", WHOLE)
def test_what_needs_the_whole_batch_is_refused_before_anything_is_loaded(
    reason, tmp_path, monkeypatch
):
    cfg = tiny_config(tmp_path, WHOLE[reason])
    monkeypatch.setattr(run, "make_accelerator", lambda *_, **__: SimpleNamespace(num_processes=2))
    for part in ("with_trained_teacher", "_load"):
        monkeypatch.setattr(run, part, lambda *_: pytest.fail("something is loaded"))
    for more in ({}, {"train_teacher": True}):
        with pytest.raises(UserError) as caught:
            run.train(cfg, **more)
        told = str(caught.value)
        assert told.startswith(f"{reason} relates the images of a batch or remembers them")
        assert "was started as 2 processes" in told and told.endswith("allowed with it: 1 process")


@pytest.mark.slow
@pytest.mark.parametrize("reason", WHOLE)
def test_processes_that_are_really_started_are_refused_so(reason, tmp_path):
    yaml = tiny_yaml(tmp_path, {**WHOLE[reason], "DISTILLER.TEACHER_CKPT": "nix"})
    for code, _, error in together(*train_words(yaml)):
        assert code == 2 and f"error: {reason} relates the images of a batch" in error


@pytest.mark.slow
def test_what_fails_in_one_is_told_by_all(yaml_of):
    yaml = yaml_of("KD", **{"SOLVER.LR": 1e30})
    for code, _, error in together(*train_words(yaml)):
        assert code == 2 and "loss is not finite at epoch 1, step 2" in error


@pytest.mark.slow
def test_a_dry_run_is_for_one_process(yaml_of):
    for code, _, error in together(*train_words(yaml_of("KD"), "--dry-run")):
        assert code == 2 and "started as 2 processes; only `train` without --dry-run" in error


@pytest.mark.parametrize(
    ("size", "command", "who"),
    [("2", "train", "process 1: "), ("2", "table", ""), ("1", "train", "")],
)
def test_only_a_process_of_several_that_train_is_silent(size, command, who, monkeypatch, capsys):
    """A RANK that some launcher left behind must not swallow what a command prints."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", size)
    words = {"train": ["--cfg", "nix.yaml"], "table": ["nix"]}[command]
    assert main([command, *words]) == 2
    assert capsys.readouterr().err.startswith(f"{who}error: ")


def test_one_process_exchanges_nothing(tmp_path):
    ranks = Ranks(make_accelerator(load_config(tiny_yaml(tmp_path)), several=True))
    value = torch.tensor([1.0, 2.0])
    assert ranks.total(value) is value and (ranks.rank, ranks.size) == (0, 1) and ranks.writes
    with pytest.raises(KeyError):
        ranks.agree(lambda: {}["nothing"])

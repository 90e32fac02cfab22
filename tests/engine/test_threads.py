"""A run computes with the thread count that it began with, since its bits depend on it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny import assert_same_run, contents, read, tiny_config, tiny_yaml
from support.tiny import train_until_killed as train_until

from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.threads import choose_threads, threads
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.folder import RunFolder, recorded_threads


@pytest.fixture(autouse=True)
def one_thread():
    """Whatever this process was started with."""
    with threads(1):
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run with one thread that nothing disturbed."""
    with threads(1):
        return train(tiny_config(tmp_path_factory.mktemp("straight"))).path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """LOG.PREFIX of the same run, stopped in its third epoch."""
    prefix = tmp_path_factory.mktemp("stopped")
    with threads(1):
        train_until(tiny_config(prefix), steps=7)
    return prefix


@pytest.fixture
def killed(stopped, tmp_path) -> tuple[Path, Path]:
    """LOG.PREFIX and folder of a copy."""
    shutil.copytree(stopped, tmp_path / "runs")
    (latest,) = tmp_path.rglob("latest")
    return tmp_path / "runs", latest.parent


def test_the_bits_do_depend_on_it(straight, tmp_path):
    """Else all of this is needless, and the README's promise may lose its condition."""
    with threads(2):
        other = train(tiny_config(tmp_path)).path
    ours, theirs = (read(folder / "student_latest")["model"] for folder in (straight, other))
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_resumed_run_takes_the_count_it_began_with_and_says_so(straight, killed, capsys):
    prefix, folder = killed
    with threads(2):
        train(tiny_config(prefix), resume=True)
        assert torch.get_num_threads() == 2, "the caller's own is put back"
    assert f"{folder} began with 1 threads and goes on with them, not with 2" in (
        capsys.readouterr().out
    )
    assert_same_run(straight, folder)
    environment = json.loads((folder / "result.json").read_text())["environment"]
    assert environment["threads"] == 1


def test_another_count_that_is_asked_for_is_refused(killed):
    prefix, folder = killed
    before = contents(folder)
    with pytest.raises(UserError, match=r"SOLVER.THREADS is 2, but .* began with 1 threads.*or 0"):
        train(tiny_config(prefix, {"SOLVER.THREADS": 2}), resume=True)
    assert contents(folder) == before
    train(tiny_config(prefix, {"SOLVER.THREADS": 1}), resume=True)


def test_the_key_gives_the_count_and_the_bits(straight, tmp_path):
    with threads(2):
        folder = train(tiny_config(tmp_path, {"SOLVER.THREADS": 1})).path
    assert recorded_threads(folder) == 1 and folder.parent.name == straight.parent.name
    assert_same_run(straight, folder)


def test_a_run_that_has_no_epoch_yet_keeps_its_count_too(straight, tmp_path):
    cfg = tiny_config(tmp_path)
    train_until(cfg, steps=1)
    with threads(2):
        folder = train(cfg, resume=True).path
    assert recorded_threads(folder) == 1
    assert_same_run(straight, folder)


def test_a_folder_that_records_none_takes_what_there_is(killed):
    prefix, folder = killed
    (folder / "environment.json").unlink()
    assert recorded_threads(folder) is None
    train(tiny_config(prefix), resume=True)


@pytest.mark.parametrize(
    ("asked", "begun", "chosen"), [(0, None, 1), (3, None, 3), (0, 2, 2), (2, 2, 2)]
)
def test_who_decides(asked, begun, chosen):
    assert choose_threads(asked, begun) == chosen


@pytest.mark.slow
def test_as_a_process_omp_num_threads_does_not_change_a_resumed_run(straight, killed):
    prefix, folder = killed
    yaml = tiny_yaml(prefix.parent)
    command = [sys.executable, "-m", "sdkd_plugin", "train", "--resume", "--cfg", yaml]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert_same_run(straight, folder)


def test_the_count_is_no_part_of_the_identity(tmp_path):
    one, two = tiny_config(tmp_path), tiny_config(tmp_path, {"SOLVER.THREADS": 2})
    data = load_dataset(one)
    assert RunFolder.of(one, data).identity == RunFolder.of(two, data).identity

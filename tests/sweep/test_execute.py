"""How a sweep's runs are started, shared and ended: by signals, by the sweep's own death, by
another sweep.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import psutil
import pytest
import yaml
from filelock import FileLock

from sdkd_plugin.arguments import parse
from sdkd_plugin.runs.folder import BusyError
from sdkd_plugin.sweep import execute
from sdkd_plugin.sweep.jobs import Job, folder_of, read_sweep

LONG = {"DATASET.TYPE": "digits", "SOLVER.EPOCHS": 200, "SOLVER.SCHEDULE_EPOCHS": 240}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep_file(overrides: dict, seeds: list[int]) -> Path:
    tree = {"methods": ["vanilla"], "pairs": ["res56_res20"], "seeds": seeds}
    path = Path("sweep.yaml")
    path.write_text(yaml.safe_dump({**tree, "overrides": overrides}))
    return path


def start(path: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "sdkd_plugin", "sweep", str(path), *options]

    # a shell that put the tests into the background made SIGINT ignored, nohup made SIGHUP so, and
    # children inherit it
    def heed() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **pipes, preexec_fn=heed)


def trainers(process: subprocess.Popen, number: int) -> list[psutil.Process]:
    """The sweep's runs, once there are so many that have finished an epoch."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(Path().rglob("student_latest"))) >= number:
            return psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.1)
    raise AssertionError(process.communicate()[0])


def all_end(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=90)
    return not alive


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_a_sweep_ends_its_runs(number, place):
    process = start(sweep_file(LONG, [0, 1]), "--jobs", "2")
    runs = trainers(process, 2)
    assert len(runs) == 2
    process.send_signal(number)
    said = process.communicate(timeout=90)[0]
    assert process.returncode == 128 + number
    assert f"interrupted by {number.name}: each run's last complete epoch is saved" in said
    assert not [run for run in runs if run.is_running()], "they end before the sweep does"
    assert not list(place.rglob("result.json")) and len(list(place.rglob("student_latest"))) == 2


@pytest.mark.slow
def test_a_sweep_that_is_killed_takes_its_runs_with_it(place):
    process = start(sweep_file(LONG, [0]))
    runs = trainers(process, 1)
    assert runs
    process.kill()
    process.wait()
    assert all_end(runs)


@pytest.mark.slow
def test_two_sweeps_on_one_folder_share_the_work(place):
    path = sweep_file({**LONG, "SOLVER.EPOCHS": 1, "DATASET.SUBSET": 0.2}, [0, 1, 2, 3])
    both = [start(path), start(path)]
    said = [process.communicate(timeout=280)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(list(place.rglob("result.json"))) == 4
    assert not any("failed" in text for text in said)


class Fake:
    """A folder in which something is the case."""

    def __init__(self, busy: bool = False, result: object = None):
        self.busy, self.result = busy, result


def jobs(*labels: str) -> list[Job]:
    return [Job(label, Path("x.yaml"), (), 0) for label in labels]


def test_what_another_process_writes_is_left_for_later_and_what_it_finished_is_done(monkeypatch):
    folders = {"a": Fake(busy=True), "b": Fake(result="done"), "c": Fake(), "d": Fake()}
    monkeypatch.setattr(execute, "folder_of", lambda job: folders[job.label])
    waiting = deque(jobs("a", "b", "c", "d"))
    found, finished = execute._next(waiting)
    assert (found.label, [job.label for job in finished]) == ("c", ["b"])
    assert [job.label for job in waiting] == ["a", "d"]
    assert execute._elsewhere(jobs("a")[0]) and not execute._elsewhere(jobs("d")[0])


def test_a_folder_that_another_process_writes_is_busy(place):
    (job,) = read_sweep(sweep_file(LONG, [0])).students
    folder = folder_of(job)
    assert not folder.busy and not folder.path.exists()
    folder.path.mkdir(parents=True)
    with FileLock(folder.path / ".lock"):
        assert folder.busy
        with pytest.raises(BusyError, match="is being written by another process"):
            folder.lock()
    assert not folder.busy
    with folder.lock():
        pass


@pytest.mark.parametrize(("said", "threads"), [(None, "1"), ("3", "3")])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_runs_threads_do_not_depend_on_how_many_run(said, threads, workers, place, monkeypatch):
    started = []

    class Process:
        returncode = 0

        def __init__(self, command, env, **options):
            assert options["stdin"] == subprocess.PIPE and "--end-with-stdin" in command
            started.append(env["OMP_NUM_THREADS"])

        def poll(self):
            return 0

        def terminate(self):
            raise AssertionError("it has ended")

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        monkeypatch.setattr(execute.torch, "get_num_threads", lambda: int(said))
    monkeypatch.setattr(execute.subprocess, "Popen", Process)
    monkeypatch.setattr(execute, "folder_of", lambda job: Fake())
    outcomes = list(execute.run_local(jobs("a", "b"), workers, Path("logs")))
    assert [error for _, error in outcomes] == [None, None] and started == [threads] * 2


@pytest.mark.parametrize(
    ("processes", "slot", "gpus"), [(1, 0, "0"), (1, 5, "1"), (2, 0, "0,1"), (2, 1, "2,3")]
)
def test_gpus_are_dealt_out_as_many_as_a_run_has_processes(
    processes, slot, gpus, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(execute.torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(execute.subprocess, "Popen", lambda run, env, **more: seen.append(env))
    run = execute.command_of("train", processes=processes)
    execute.start(run, slot, tmp_path / "log", processes)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in seen] == [gpus]


def test_a_log_is_named_by_its_label_as_far_as_that_names_a_file():
    logs = Path("logs")
    (plain, *others) = jobs("kd/res56_res20 seed 0", "a:b", "a;b", "x" * 200, "../ä|")
    assert execute._log(plain, logs) == logs / "kd_res56_res20_seed_0.log"
    paths = [execute._log(job, logs) for job in others]
    assert len(set(paths)) == 4 and all(path.parent == logs for path in paths)
    assert all(len(path.name) < 200 and path.name.isascii() for path in paths)


def test_a_failures_last_line_is_found_in_a_long_log(tmp_path):
    log = tmp_path / "x.log"
    log.write_bytes(b"\xff" * 100_000 + b"\rerror: the reason\n")
    assert execute.error_of(2, log) == f"exit code 2: error: the reason (see {log})"
    assert execute.error_of(0, log) is None
    log.write_bytes(b"")
    assert "no output" in execute.error_of(-9, log)


@pytest.mark.parametrize(
    "line",
    [
        "sweep f.yaml SOLVER.LR 1 --jobs 2 SOLVER.SEED 3",
        "sweep f.yaml --jobs 2 SOLVER.LR 1 SOLVER.SEED 3",
        "sweep --jobs 2 f.yaml SOLVER.LR 1 SOLVER.SEED 3",
    ],
)
def test_overrides_stand_anywhere_after_the_file(line):
    options = parse(line.split())
    assert options.opts == ["SOLVER.LR", "1", "SOLVER.SEED", "3"]
    assert (options.file, options.jobs) == ("f.yaml", 2)


@pytest.mark.parametrize("line", ["sweep f.yaml --nix", "sweep f.yaml A 1 --nix 3", "methods a"])
def test_what_is_no_override_is_refused(line, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(line.split())
    assert caught.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err


def test_the_end_of_standard_input_ends_a_process_that_asked_for_it(tmp_path):
    code = (
        "from sdkd_plugin.signals import *\nimport time\nend_with_stdin()\n"
        "try:\n  with interruptible():\n    print('on', flush=True)\n    time.sleep(60)\n"
        "except Interrupted as error:\n  raise SystemExit(exit_code(error))\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as process:
        assert process.stdout.readline() == b"on\n"
        process.stdin.write(b"text that nobody reads\n")
        process.stdin.flush()
        time.sleep(0.3)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(timeout=20) == 143

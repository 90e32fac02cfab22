"""Runs the jobs of a sweep: on this machine's processors and GPUs, or on a Ray cluster. One failure
stops nothing else.
"""

import os
import re
import subprocess
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path

import torch

from sdkd_plugin.config import whole_batch_reason
from sdkd_plugin.errors import UserError
from sdkd_plugin.plugins import import_plugins, requested_imports
from sdkd_plugin.runs.folder import BusyError
from sdkd_plugin.sweep.jobs import Job, folder_of

# each job as it ends, and its error in one line, or None
Outcomes = Generator[tuple[Job, str | None], None, None]
Tick = Callable[[], object]  # called while nothing ends, several times a second

POLL = 0.1  # seconds between looks at the running processes
BUSY = 2.0  # seconds between looks at runs that another process writes
PATIENCE = 60.0  # seconds for a run to stop by itself; then it is killed
TAIL = 4096  # bytes of a log in which its last line is looked for


def run_threads() -> int:
    """Threads of each run: what the user's OMP_NUM_THREADS says, else 1.

    The bits of a run depend on the count, so it must not depend on how many run at a time.
    """
    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else 1


def command(job: Job, processes: int = 1) -> list[str]:
    """What runs one job in processes of its own; repeating it resumes.

    Args:
        processes: how many, for a method that several can train.
    """
    shared = processes > 1 and not whole_batch_reason(job.config())
    count = processes if shared else 1
    return command_of("train", "--cfg", str(job.cfg), "--resume", *job.overrides, processes=count)


def command_of(name: str, *words: str, processes: int = 1) -> list[str]:
    """A command of this package for processes of its own, with this one's `--import`."""
    imports = [word for module in requested_imports() for word in ("--import", module)]
    many = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    launch = many if processes > 1 else []
    return [sys.executable, "-m", *launch, "sdkd_plugin", name, *imports, *words]


def run_local(
    jobs: list[Job], workers: int, logs: Path, tick: Tick = lambda: None, processes: int = 1
) -> Outcomes:
    """Runs each job in a process of its own, `workers` at a time; GPUs are dealt out. What another
    process runs is left to it, and waited for at the end.

    However this ends, the runs end with it: stopped as by Ctrl-C if it can still say so, and else
    because their standard input does, which only this process holds open.

    Args:
        logs: folder for what the runs print, one file per job.
        processes: of each run.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting = deque(jobs)
    running: dict[subprocess.Popen, tuple[Job, int]] = {}
    free = list(range(workers))
    look = 0.0
    try:
        while waiting or running:
            for process in [each for each in running if each.poll() is not None]:
                job, slot = running.pop(process)
                free.append(slot)
                if process.returncode and _elsewhere(job):  # another sweep was quicker
                    waiting.append(job)
                else:
                    yield job, error_of(process.returncode, _log(job, logs))

            while waiting and free and time.monotonic() >= look:
                found, finished = _next(waiting)
                yield from ((job, None) for job in finished)
                if found is None:
                    look = time.monotonic() + BUSY
                else:
                    slot = free.pop(0)
                    run = command(found, processes)
                    running[start(run, slot, _log(found, logs), processes)] = (found, slot)
            tick()
            time.sleep(POLL)
    finally:
        stop(list(running))


def _next(waiting: deque[Job]) -> tuple[Job | None, list[Job]]:
    """Takes the first job that nobody runs; and those that another process has finished."""
    finished: list[Job] = []
    for job in list(waiting):
        try:
            folder = folder_of(job)
            if folder.busy:
                continue
            done = folder.result is not None
        except UserError:  # the run will say it
            done = False
        waiting.remove(job)
        if not done:
            return job, finished
        finished.append(job)
    return None, finished


def _elsewhere(job: Job) -> bool:
    """Whether another process runs this job, or has finished it."""
    try:
        folder = folder_of(job)
        return folder.busy or folder.result is not None
    except UserError:
        return False


def start(run: list[str], slot: int, log: Path, processes: int = 1) -> subprocess.Popen:
    """Starts a command of this package that ends when this process does.

    Args:
        run: from `command_of`.
        slot: numbers those at a time from 0; GPUs are dealt out by it.
        log: where its output is appended.
        processes: how many GPUs it gets, where there are any.
    """
    environment = dict(os.environ, OMP_NUM_THREADS=str(run_threads()))
    gpus = torch.cuda.device_count()
    if gpus:
        own = [(slot * processes + number) % gpus for number in range(processes)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, own))
    after = run.index("sdkd_plugin") + 2  # the command's name
    with open(log, "a") as file:
        return subprocess.Popen(
            [*run[:after], "--end-with-stdin", *run[after:]],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            # a terminal's Ctrl-C comes to this process alone, which passes it on once
            start_new_session=True,
        )


def stop(processes: list[subprocess.Popen]) -> None:
    """Ends runs as by Ctrl-C: the last complete epoch is saved. Kills what does not end."""
    for process in processes:
        process.terminate()
    try:
        until = time.monotonic() + PATIENCE
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
    finally:  # a second Ctrl-C does not leave them
        for process in processes:
            if process.poll() is None:
                process.kill()


def _log(job: Job, logs: Path) -> Path:
    """Where a job prints to: named by its label, as far as that can name a file."""
    name = job.label.replace("/", "_").replace(" ", "_")
    safe = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:150]
    if safe != name:
        safe += f"-{zlib.crc32(name.encode()):08x}"
    return logs / f"{safe}.log"


def error_of(code: int, log: Path) -> str | None:
    """Why a process failed, in one line, by its exit code and the error, or else what it printed
    last; None for 0.
    """
    if code == 0:
        return None
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        lines = file.read().decode(errors="replace").strip().splitlines()
    # a launcher of several processes says more after it
    errors = [line for line in lines if line.startswith("error: ")]
    return f"exit code {code}: {(errors or lines or ['no output'])[-1]} (see {log})"


def run_on_ray(
    jobs: list[Job], address: str | None, threads: int, tick: Tick = lambda: None
) -> Outcomes:
    """Runs each job as a Ray task; one whose node dies starts again elsewhere and resumes from the
    shared folder.

    Args:
        address: of a running cluster, as in ray.init; None: the one that RAY_ADDRESS names or that
            runs on this machine, and where there is none a new one.
        threads: processors each run asks for and uses; with GPUs in the cluster it asks for one of
            them, too.
    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--executor ray needs Ray; install it with: pip install 'sdkd-plugin[cluster]'"
        ) from error

    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster at {address!r}: {error}; start one with: ray start --head"
        ) from error

    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    # In the worker's own process: a run whose node dies must die with it, or it would keep the
    # folder locked.
    task = ray.remote(max_retries=-1, num_cpus=threads, num_gpus=gpus)(_run_here)

    place = (threads, os.getcwd(), requested_imports())
    waiting = {task.remote(job, *place): job for job in jobs}
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=1)
        tick()
        for one in done:
            job = waiting.pop(one)
            try:
                yield job, ray.get(one)
            except ray.exceptions.RayError as error:
                yield job, " ".join(str(error).split())[:300]


def _run_here(job: Job, threads: int, folder: str, imports: tuple[str, ...]) -> str | None:
    from sdkd_plugin.engine.run import train

    os.chdir(folder)
    torch.set_num_threads(threads)
    while True:
        try:
            import_plugins(imports)
            train(job.config(), resume=True)
            return None
        except BusyError:  # another sweep's; once it has finished, this one finds the result
            time.sleep(BUSY)
        except (UserError, OSError) as error:
            return " ".join(str(error).split())

"""Runs the jobs of a sweep: on this machine's processors and GPUs, or on a Ray cluster. One failure
stops nothing else.
"""

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm import tqdm

from sdkd_plugin.errors import UserError
from sdkd_plugin.plugins import import_plugins, requested_imports
from sdkd_plugin.sweep.jobs import Job

# each job as it ends, and its error in one line, or None
Outcomes = Iterator[tuple[Job, str | None]]


def command(job: Job) -> list[str]:
    """What runs one job in a process of its own, with this one's `--import`; repeating it
    resumes.
    """
    imports = [word for name in requested_imports() for word in ("--import", name)]
    train = [sys.executable, "-m", "sdkd_plugin", "train", *imports]
    return [*train, "--cfg", str(job.cfg), "--resume", *job.overrides]


def run_local(jobs: list[Job], workers: int, logs: Path) -> Outcomes:
    """Runs each job in a process of its own, `workers` at a time; threads are split between them,
    GPUs dealt out.

    Args:
        logs: folder for what the runs print, one file per job.
    """
    logs.mkdir(parents=True, exist_ok=True)
    slots: queue.Queue[int] = queue.Queue()
    for slot in range(workers):
        slots.put(slot)
    running: set[subprocess.Popen] = set()

    def run(job: Job) -> str | None:
        slot = slots.get()
        try:
            return _run_process(job, slot, workers, logs, running)
        finally:
            slots.put(slot)

    pool = ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(run, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except (KeyboardInterrupt, GeneratorExit):
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            # each run stops as by Ctrl-C: its last complete epoch is saved
            process.send_signal(signal.SIGINT)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _run_process(
    job: Job, slot: int, workers: int, logs: Path, running: set[subprocess.Popen]
) -> str | None:
    environment = dict(os.environ, OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 1) // workers)))
    if torch.cuda.device_count():
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
    log = logs / f"{job.label.replace('/', '_').replace(' ', '_')}.log"
    with open(log, "a") as file:
        process = subprocess.Popen(
            command(job), stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        running.add(process)
        code = process.wait()
        running.discard(process)

    if code == 0:
        return None
    lines = log.read_text().strip().splitlines()
    return f"exit code {code}: {lines[-1] if lines else 'no output'} (see {log})"


def run_on_ray(jobs: list[Job], address: str | None, threads: int) -> Outcomes:
    """Runs each job as a Ray task; one whose node dies starts again elsewhere and resumes from the
    shared folder.

    Args:
        address: of a running cluster, as in ray.init; None starts one on this machine.
        threads: processors each run asks for; with GPUs in the cluster it asks for one of them,
            too.
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
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        job = waiting.pop(done)
        try:
            yield job, ray.get(done)
        except ray.exceptions.RayError as error:
            yield job, " ".join(str(error).split())[:300]


def _run_here(job: Job, threads: int, folder: str, imports: tuple[str, ...]) -> str | None:
    from sdkd_plugin.engine.run import train

    os.chdir(folder)
    torch.set_num_threads(threads)
    try:
        import_plugins(imports)
        train(job.config(), resume=True)
    except (UserError, OSError) as error:
        return " ".join(str(error).split())
    return None


def run_all(
    phases: Iterable[list[Job]], execute: Callable[[list[Job]], Outcomes]
) -> list[tuple[Job, str]]:
    """Runs the phases one after the other with one overall progress bar; returns what failed, with
    the reason.
    """
    phases = list(phases)
    failures = []
    with tqdm(total=sum(map(len, phases)), desc="sweep", unit="run") as bar:
        for jobs in phases:
            for job, error in execute(jobs) if jobs else ():
                if error:
                    failures.append((job, error))
                    tqdm.write(f"failed: {job.label}: {error}")
                else:
                    tqdm.write(f"done: {job.label}")
                bar.update()
    return failures

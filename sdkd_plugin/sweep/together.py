"""Jobs of a sweep that a process trains in lockstep: which they are, what the process does, and how
a sweep looks after several.
"""

import json
import secrets
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdkd_plugin.engine.lockstep import meeting_key, train_together
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_json, write_json
from sdkd_plugin.runs.folder import BusyError
from sdkd_plugin.sweep.execute import (
    POLL,
    Outcomes,
    Tick,
    command_of,
    error_of,
    run_local,
    start,
    stop,
)
from sdkd_plugin.sweep.jobs import Job, folder_of

ENTRY = {"label": str, "cfg": str, "settings": list, "seed": int}


def group_jobs(jobs: Iterable[Job], size: int, parts: int) -> list[list[Job]]:
    """Jobs that can be trained together.

    Args:
        jobs: whose teachers are trained.
        size: how many at most in a group; 0: no bound.
        parts: how many groups there should be at least, so that no processor is idle; the largest
            are halved until there are, or none has two.
    """
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(meeting_key(job.config(), folder_of(job)), []).append(job)
    groups = [part for group in found.values() for part in _split(group, size or len(group))]
    while groups and len(groups) < parts and len(max(groups, key=len)) > 1:
        largest = max(groups, key=len)
        place = groups.index(largest)
        groups[place : place + 1] = _split(largest, -(-len(largest) // 2))
    return groups


def _split(group: list[Job], size: int) -> list[list[Job]]:
    """About equal parts of at most `size`; neighbours, which often cost alike, come apart."""
    count = -(-len(group) // size)
    return [group[number::count] for number in range(count)]


def write_group(jobs: Sequence[Job], path: Path) -> None:
    """Writes what `train_group` reads."""
    entries = [
        {"label": job.label, "cfg": str(job.cfg), "settings": job.settings, "seed": job.seed}
        for job in jobs
    ]
    write_json(path, entries)


def read_group(path: Path) -> list[Job]:
    """The jobs in a file that `write_group` wrote.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    value = read_json(path)
    if value is None:
        raise UserError(f"group file {path} does not exist; sweep --lockstep writes them")
    if not isinstance(value, list) or not value or not all(map(_is_job, value)):
        raise UserError(f"group file {path} is torn; wanted: a list of {', '.join(ENTRY)}")
    return [Job(v["label"], Path(v["cfg"]), tuple(v["settings"]), v["seed"]) for v in value]


def _is_job(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != ENTRY.keys():
        return False
    typed = all(type(value[key]) is kind for key, kind in ENTRY.items())
    return typed and all(isinstance(word, str) for word in value["settings"])


def train_group(path: Path, size: int, processes: int) -> None:
    """Trains the jobs of a group file together; says how each ended in a json line of its own in
    the file beside it that ends in .outcomes.

    Args:
        size, processes: see `engine.lockstep.train_together`.
    Raises:
        UserError: jobs that failed; the others are finished first.
    """
    jobs = read_group(path)
    failures = []
    with open(path.with_suffix(".outcomes"), "w") as file:
        for number, error in train_together((job.config() for job in jobs), size, processes):
            busy = isinstance(error, BusyError)
            told = None if error is None else " ".join(str(error).split())
            print(json.dumps([jobs[number].label, told, busy]), file=file, flush=True)
            if error is not None:
                failures.append(f"{jobs[number].label}: {told}")
    if failures:
        raise UserError(f"{len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}")


@dataclass
class _Running:
    """A group and the process that trains it."""

    process: subprocess.Popen
    path: Path
    slot: int
    left: dict[str, Job]  # by label, which have not ended
    told: int = field(default=0)  # outcomes that were read

    def ended(self) -> Iterator[tuple[Job, str | None, bool]]:
        """The jobs that ended since it was asked last: their errors, and whether they are busy."""
        file = self.path.with_suffix(".outcomes")
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        for line in lines[self.told :]:
            if not line.endswith("\n"):
                return  # it is being written
            self.told += 1
            label, error, busy = json.loads(line)
            yield self.left.pop(label), error, busy


def run_in_lockstep(
    jobs: list[Job], workers: int, size: int, logs: Path, tick: Tick = lambda: None
) -> Outcomes:
    """Trains jobs in groups, `workers` of these at a time, each in a process of its own. What
    another process runs is left to it, and waited for at the end.

    However this ends, the runs end with it, see `execute.run_local`.

    Args:
        size: how many runs at most in a group; 0: as many as the memory holds.
        logs: folder for the group files and for what the processes print.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting = deque(enumerate(group_jobs(jobs, size, workers), start=1))
    running: list[_Running] = []
    busy: list[Job] = []
    free = list(range(workers))
    try:
        while waiting or running:
            for group in list(running):
                over = group.process.poll() is not None
                for job, error, elsewhere in group.ended():
                    if elsewhere:
                        busy.append(job)
                    else:
                        yield job, error
                if over:
                    running.remove(group)
                    free.append(group.slot)
                    log = group.path.with_suffix(".log")
                    # it broke off, or each job would have ended
                    for job in group.left.values():
                        yield job, error_of(group.process.returncode or 1, log)
                    group.path.unlink(missing_ok=True)
                    group.path.with_suffix(".outcomes").unlink(missing_ok=True)

            while waiting and free:
                number, members = waiting.popleft()
                running.append(_start(number, members, free.pop(0), workers, size, logs))
            tick()
            time.sleep(POLL)
    finally:
        stop([group.process for group in running])

    with closing(run_local(busy, workers, logs, tick)) as outcomes:
        yield from outcomes


def _start(
    number: int, members: list[Job], slot: int, workers: int, size: int, logs: Path
) -> _Running:
    # a name that no other sweep on this folder takes
    path = logs / f"group{number}-{secrets.token_hex(4)}.json"
    write_group(members, path)
    words = [str(path), "--size", str(size), "--processes", str(workers)]
    process = start(command_of("together", *words), slot, path.with_suffix(".log"))
    return _Running(process, path, slot, {job.label: job for job in members})

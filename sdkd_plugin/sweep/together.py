"""Jobs of a sweep that one process trains in lockstep: which they are, and what it does."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sdkd_plugin.engine.lockstep import meeting_key, train_together
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import write_json
from sdkd_plugin.sweep.jobs import Job, folder_of


def group_jobs(jobs: Iterable[Job], size: int = 0) -> list[list[Job]]:
    """Jobs that can be trained together, in the order in which the first of each group stands.

    Args:
        jobs: whose teachers are trained.
        size: how many at most in a group, which then are about equally large; 0: no bound.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(meeting_key(job.config(), folder_of(job)), []).append(job)
    return [part for group in groups.values() for part in _parts(group, size)]


def _parts(group: list[Job], size: int) -> Iterator[list[Job]]:
    count = -(-len(group) // size) if size else 1
    for number in range(count):
        yield group[number::count]


def write_group(jobs: Sequence[Job], path: Path) -> None:
    """Writes what `train_group` reads."""
    write_json(path, [{"label": j.label, "cfg": str(j.cfg), "opts": j.overrides} for j in jobs])


def read_group(path: Path) -> list[Job]:
    """The jobs in a file that `write_group` wrote.

    Raises:
        UserError: the file cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"group file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"group file {path} is no json: {error}") from error
    if not isinstance(value, list) or not value or not all(map(_is_job, value)):
        raise UserError(f"group file {path} is torn; wanted: a list of label, cfg and opts")
    return [Job(each["label"], Path(each["cfg"]), tuple(each["opts"])) for each in value]


def _is_job(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"label", "cfg", "opts"}
        and isinstance(value["label"], str)
        and isinstance(value["cfg"], str)
        and isinstance(value["opts"], list)
        and all(isinstance(word, str) for word in value["opts"])
    )


def outcomes_file(path: Path) -> Path:
    """Where the process that trains a group says how each of its jobs ended."""
    return path.with_suffix(".outcomes")


def train_group(path: Path, size: int, processes: int) -> None:
    """Trains the jobs of a group file together, and appends how each ended to `outcomes_file`, a
    json line each, as it ends.

    Args:
        size, processes: see `engine.lockstep.train_together`.
    Raises:
        UserError: jobs that failed; the others are finished first.
    """
    jobs = read_group(path)
    failures = []
    with open(outcomes_file(path), "a") as file:
        for number, error in train_together((job.config() for job in jobs), size, processes):
            print(json.dumps({"label": jobs[number].label, "error": error}), file=file, flush=True)
            if error:
                failures.append(f"{jobs[number].label}: {error}")
    if failures:
        raise UserError(f"{len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}")

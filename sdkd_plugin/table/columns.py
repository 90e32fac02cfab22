"""From runs to columns: which runs may stand side by side.

A column is one teacher/student pair under one protocol: equal data, evaluated images, schedule,
optimiser, precision and teacher checkpoint. Runs that differ in any of these stand in columns of
their own, told apart by a letter, so that no mean, gain, rank or test ever mixes them.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from sdkd_plugin.runs.read import HOME, VANILLA, Run
from sdkd_plugin.table.published import load_published


@dataclass(frozen=True)
class Column:
    """One pair under one protocol; `letter` tells it from columns under another, "" where all
    agree.
    """

    teacher: str | None
    student: str
    teacher_hash: str | None
    protocol: dict[str, Any]
    letter: str = ""

    @property
    def pair(self) -> str:
        return f"{self.teacher or '-'}/{self.student}"

    @property
    def seeded(self) -> bool:
        """Whether equal seeds mean equal initial weights and order, so that runs may be paired;
        other hosts set none.
        """
        return self.protocol["host"] == HOME

    @property
    def label(self) -> str:
        return f"{self.pair} [{self.letter}]" if self.letter else self.pair


@dataclass(frozen=True)
class Placement:
    """Where runs stand.

    Args:
        placed: each run with the positions of its columns.
        teachers: vanilla runs of a model that teaches here and learns nowhere here.
        shared: the part of the protocol all columns agree in.
        differing: letter to the part they do not.
    """

    columns: list[Column]
    placed: list[tuple[Run, list[int]]]
    teachers: list[Run]
    shared: dict[str, Any]
    differing: dict[str, dict[str, Any]]


def place_runs(runs: Sequence[Run]) -> Placement:
    """Finds the columns, where each run stands in them, and the runs that only taught.

    A run with a teacher checkpoint makes its column. One that trains its teacher along stands in
    every column of its pair and protocol, a vanilla one in every column of its student and
    protocol; where there is none it makes one.
    """
    names = {run.teacher for run in runs} - {run.student for run in runs if run.teacher is not None}
    teachers = [run for run in runs if run.method == VANILLA and run.student in names]
    learners = [run for run in runs if not (run.method == VANILLA and run.student in names)]

    found: dict[str, Column] = {}
    keys: dict[Path, list[str]] = {}
    for run in sorted(learners, key=lambda run: (run.teacher_hash is None, run.teacher is None)):
        fitting = []
        if run.teacher_hash is None:
            fitting = [key for key, column in found.items() if _fits(run, column)]
        if not fitting:
            fitting = [as_text([run.teacher, run.student, run.teacher_hash, run.protocol])]
            own = Column(run.teacher, run.student, run.teacher_hash, run.protocol)
            found.setdefault(fitting[0], own)
        keys[run.path] = fitting

    order = sorted(found, key=lambda key: _column_order(found[key], key))
    indices = {key: index for index, key in enumerate(order)}
    placed = [(run, [indices[key] for key in keys[run.path]]) for run in learners]
    columns, shared, differing = _with_letters([found[key] for key in order])
    return Placement(columns, placed, teachers, shared, differing)


def as_text(value: Any) -> str:
    """One text for equal values, whatever order their keys are in."""
    return json.dumps(value, sort_keys=True)


def _fits(run: Run, column: Column) -> bool:
    return (
        run.student == column.student
        and run.protocol == column.protocol
        and run.teacher in (None, column.teacher)
    )


def _column_order(column: Column, key: str) -> tuple[int, str, str, str]:
    """As the poster prints its pairs, then by name, a column without a teacher last among its
    student's.
    """
    pairs = _published_pairs()
    place = pairs.get((column.teacher, column.student), len(pairs))
    return (place, column.student, column.teacher or "~", key)


@cache
def _published_pairs() -> dict[tuple[str | None, str], int]:
    """Each pair that a table prints, and which of them it is."""
    pairs = dict.fromkeys((row.teacher, row.student) for row in load_published())
    return {pair: place for place, pair in enumerate(pairs)}


def _with_letters(
    columns: Sequence[Column],
) -> tuple[list[Column], dict[str, Any], dict[str, dict[str, Any]]]:
    keys = list(dict.fromkeys(key for column in columns for key in column.protocol))
    differ = [key for key in keys if _differs(key, columns)]
    settings = [pair for column in columns for pair in column.protocol.items()]
    shared = {key: value for key, value in settings if key not in differ}

    hashes: dict[str | None, set] = defaultdict(set)
    for column in columns:
        hashes[column.teacher].add(column.teacher_hash)

    letters: dict[str, str] = {}
    lettered = []
    differing = {}
    for column in columns:
        shown = [key for key in differ if key in column.protocol or column.seeded]
        own = {key: column.protocol.get(key) for key in shown}
        if len(hashes[column.teacher]) > 1:
            own["teacher checkpoint"] = column.teacher_hash
        letter = letters.setdefault(as_text(own), _letter(len(letters))) if own else ""
        if own:
            differing[letter] = own
        lettered.append(replace(column, letter=letter))
    return lettered, shared, differing


def _differs(key: str, columns: Sequence[Column]) -> bool:
    """Whether two columns disagree; that another host does not record a key is no disagreement with
    ours.
    """
    values: dict[str, set[str]] = defaultdict(set)
    for column in columns:
        values[column.protocol["host"]].add(as_text(column.protocol.get(key)))
    recorded = {as_text(column.protocol[key]) for column in columns if key in column.protocol}
    return len(recorded) > 1 or any(len(of_host) > 1 for of_host in values.values())


def _letter(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    head, last = divmod(number, 26)
    return (_letter(head - 1) if head else "") + chr(ord("a") + last)

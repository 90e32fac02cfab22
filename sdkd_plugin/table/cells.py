"""From runs to cells: which runs may be averaged, and which stand apart.

A cell is one method in one column. A column is one teacher/student pair under one protocol: equal
data, evaluated images, schedule, optimiser, precision and teacher checkpoint. Runs that differ in
any of these stand in columns of their own, told apart by a letter, so that no mean, gain, rank or
test ever mixes them. Runs of one column, method and whatever settings differ only in their seed; a
second setting of a method is an error unless asked to have a row of its own.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from sdkd_plugin.errors import UserError, unknown
from sdkd_plugin.runs.read import HOME, VANILLA, Rejected, Run
from sdkd_plugin.table.published import STUDENT, load_published, method_order
from sdkd_plugin.table.statistics import Summary, summarize


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


@dataclass
class TableCell:
    """The runs of one method in one column, one per seed."""

    column: Column
    row: str
    finished: list[Run] = field(default_factory=list)
    unfinished: list[Run] = field(default_factory=list)
    rank: int | None = (
        None  # among the column's finished cells by last-epoch mean, 1 is best, equals share
    )
    gain: float | None = None  # last-epoch mean minus the vanilla student's in the same column
    # the vanilla student's seeds are not the same or mean nothing: the gain is no paired difference
    other_seeds: bool = False

    def scores(self, statistic: str) -> dict[int, float]:
        """Seed to top-1 in percent. statistic: last | best."""
        return {run.seed: getattr(run.result, statistic)["top1"] for run in self.finished}

    def summary(self, statistic: str) -> Summary:
        """Mean and spread over seeds of a cell with finished runs. statistic: last | best."""
        return summarize(list(self.scores(statistic).values()))

    def mean_of(self, key: str) -> float | None:
        """Mean of a number of result.json over the finished runs; None if a run's host does not
        record it.
        """
        values = [getattr(run.result, key) for run in self.finished]
        return None if None in values else fmean(values)

    @property
    def hours(self) -> float | None:
        """Of training and evaluation, mean over the finished runs; None if a run's host does not
        record it.
        """
        seconds = self.mean_of("wall_seconds")
        return None if seconds is None else seconds / 3600


@dataclass(frozen=True)
class Comparison:
    """Everything a table shows.

    Args:
        rows: method names as shown, the vanilla student first.
        cells: by (row, index of the column); absent where there is no run.
        shared: the part of the protocol all columns agree in.
        differing: letter to the part they do not.
        duplicates: (left out, kept) runs of equal identity.
        teachers: vanilla runs of a model that teaches here and learns nowhere here.
    """

    columns: list[Column]
    rows: list[str]
    cells: dict[tuple[str, int], TableCell]
    shared: dict[str, Any]
    differing: dict[str, dict[str, Any]]
    rejected: list[Rejected]
    duplicates: list[tuple[Run, Run]]
    teachers: list[Run]

    def teacher_top1(self, index: int) -> float | None:
        """A trained teacher's accuracy as measured at the start of the column's runs; None where
        nobody measured one.

        Of a teacher that is trained along with the student there is none.
        """
        runs = [run for (_, at), cell in self.cells.items() if at == index for run in cell.finished]
        scores = [
            run.result.teacher_score["top1"]
            for run in runs
            if run.teacher_hash and run.result.teacher_score
        ]
        return fmean(scores) if scores else None

    @property
    def counted(self) -> list[Run]:
        """Every run that stands in a cell, once."""
        runs = {
            run.path: run
            for cell in self.cells.values()
            for run in (*cell.finished, *cell.unfinished)
        }
        return [runs[path] for path in sorted(runs)]


def compare_runs(
    runs: Sequence[Run], rejected: Sequence[Rejected], split: Sequence[str] = ()
) -> Comparison:
    """Sorts runs into cells.

    Args:
        split: method settings, such as SDKD.FUSION, each value of which gets a row of its own.
    Raises:
        UserError: no usable run; two settings of a method in one cell; a `split` key that no run
            has.
    """
    if not runs:
        faults = "; ".join(f"{bad.path}: {bad.reason}" for bad in rejected)
        raise UserError(f"no run can be used; {faults}")
    settings = {key for run in runs for key in run.recipe}
    for key in split:
        if key not in settings:
            raise unknown("method setting", key, settings, "--split")
    kept, duplicates = _without_duplicates(runs)
    columns, placed, teachers = _columns(kept)
    cells: dict[tuple[str, int], TableCell] = {}
    for run, indices in placed:
        row = row_name(run, split)
        for index in indices:
            cell = cells.setdefault((row, index), TableCell(columns[index], row))
            (cell.unfinished if run.result is None else cell.finished).append(run)
    for cell in cells.values():
        _check_one_setting(cell)
    columns, shared, differing = _with_letters(columns)
    for (_, index), cell in cells.items():
        cell.column = columns[index]
    _rank(cells)
    rows = sorted({row for row, _ in cells}, key=_row_order())
    return Comparison(columns, rows, cells, shared, differing, list(rejected), duplicates, teachers)


def row_name(run: Run, split: Sequence[str] = ()) -> str:
    """How the table calls a run's method: as papers write it, with the settings that are asked to
    tell rows apart.
    """
    if run.method == VANILLA:
        return STUDENT
    spelled = {name.lower(): name for name in method_order(load_published())}
    name = spelled.get(run.method.lower(), run.method)
    shown = [f"{key.split('.', 1)[1]}={run.recipe[key]}" for key in split if key in run.recipe]
    return f"{name} ({', '.join(shown)})" if shown else name


def _without_duplicates(runs: Sequence[Run]) -> tuple[list[Run], list[tuple[Run, Run]]]:
    """Runs of equal identity are one run: the finished one counts, the first by path where several
    are.
    """
    alike: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        names = [run.method, run.teacher, run.student, run.seed, run.teacher_hash]
        alike[_text([names, run.protocol, run.recipe])].append(run)
    kept, duplicates = [], []
    for group in alike.values():
        first, *others = sorted(group, key=lambda run: (run.result is None, run.path))
        kept.append(first)
        duplicates += [(other, first) for other in others]
    return sorted(kept, key=lambda run: run.path), sorted(duplicates, key=lambda pair: pair[0].path)


def _columns(runs: Sequence[Run]) -> tuple[list[Column], list[tuple[Run, list[int]]], list[Run]]:
    """The columns, where each run stands in them, and the runs that only taught.

    A run with a teacher checkpoint makes its column. One that trains its teacher along stands in
    every column of its pair and protocol, a vanilla one in every column of its student and
    protocol; where there is none it makes one.
    """
    names = {run.teacher for run in runs} - {run.student for run in runs if run.teacher is not None}
    teachers = [run for run in runs if run.method == VANILLA and run.student in names]
    found: dict[str, Column] = {}
    keys: dict[Path, list[str]] = {}
    placed = [run for run in runs if not (run.method == VANILLA and run.student in names)]
    for run in sorted(placed, key=lambda run: (run.teacher_hash is None, run.teacher is None)):
        fitting = [
            key for key, column in found.items() if run.teacher_hash is None and _fits(run, column)
        ]
        if not fitting:
            fitting = [_text([run.teacher, run.student, run.teacher_hash, run.protocol])]
            found.setdefault(
                fitting[0], Column(run.teacher, run.student, run.teacher_hash, run.protocol)
            )
        keys[run.path] = fitting
    order = sorted(found, key=lambda key: _column_order(found[key], key))
    indices = {key: index for index, key in enumerate(order)}
    return (
        [found[key] for key in order],
        [(run, [indices[key] for key in keys[run.path]]) for run in placed],
        teachers,
    )


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
    pairs = list(dict.fromkeys((row.teacher, row.student) for row in load_published()))
    pair = (column.teacher, column.student)
    return (
        pairs.index(pair) if pair in pairs else len(pairs),
        column.student,
        column.teacher or "~",
        key,
    )


def _with_letters(
    columns: Sequence[Column],
) -> tuple[list[Column], dict[str, Any], dict[str, dict[str, Any]]]:
    keys = list(dict.fromkeys(key for column in columns for key in column.protocol))
    differ = [key for key in keys if _differs(key, columns)]
    shared = {
        key: value
        for column in columns
        for key, value in column.protocol.items()
        if key not in differ
    }
    hashes: dict[str | None, set] = defaultdict(set)
    for column in columns:
        hashes[column.teacher].add(column.teacher_hash)
    letters: dict[str, str] = {}
    lettered, differing = [], {}
    for column in columns:
        own = {
            key: column.protocol.get(key)
            for key in differ
            if key in column.protocol or column.seeded
        }
        if len(hashes[column.teacher]) > 1:
            own["teacher checkpoint"] = column.teacher_hash
        letter = letters.setdefault(_text(own), _letter(len(letters))) if own else ""
        if own:
            differing[letter] = own
        lettered.append(
            Column(column.teacher, column.student, column.teacher_hash, column.protocol, letter)
        )
    return lettered, shared, differing


def _differs(key: str, columns: Sequence[Column]) -> bool:
    """Whether two columns disagree; that another host does not record a key is no disagreement with
    ours.
    """
    values: dict[str, set[str]] = defaultdict(set)
    for column in columns:
        values[column.protocol["host"]].add(_text(column.protocol.get(key)))
    recorded = {_text(column.protocol[key]) for column in columns if key in column.protocol}
    return len(recorded) > 1 or any(len(of_host) > 1 for of_host in values.values())


def _letter(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    head, last = divmod(number, 26)
    return (_letter(head - 1) if head else "") + chr(ord("a") + last)


def _check_one_setting(cell: TableCell) -> None:
    first, *others = cell.finished + cell.unfinished
    for run in others:
        keys = sorted(
            key
            for key in first.recipe.keys() | run.recipe.keys()
            if first.recipe.get(key) != run.recipe.get(key)
        )
        if keys:
            values = ", ".join(
                f"{key} {first.recipe.get(key)!r} against {run.recipe.get(key)!r}" for key in keys
            )
            raise UserError(
                f"{first.path} and {run.path} both claim the cell {cell.row}, {cell.column.pair} "
                f"with different settings: "
                f"{values}; leave one out, or give each a row of its own with --split "
                f"{' '.join(keys)}"
            )


def _rank(cells: dict[tuple[str, int], TableCell]) -> None:
    means = {key: cell.summary("last").mean for key, cell in cells.items() if cell.finished}
    for (row, index), mean in means.items():
        cell, rivals = cells[row, index], [other for (_, at), other in means.items() if at == index]
        cell.rank = 1 + sum(other > mean for other in rivals)
        if row != STUDENT and (STUDENT, index) in means:
            cell.gain = mean - means[STUDENT, index]
            same = cell.scores("last").keys() == cells[STUDENT, index].scores("last").keys()
            cell.other_seeds = not (same and cell.column.seeded)


def _row_order() -> Any:
    known = method_order(load_published())

    def order(row: str) -> tuple[int, str]:
        name = row.split(" (")[0]
        # a method that no table prints stands before SDKD, the last
        return (known.index(name) * 2 if name in known else len(known) * 2 - 3, row)

    return order


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)

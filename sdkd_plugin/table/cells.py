"""From runs to cells: one method in one column, its seeds averaged.

Runs of one column, method and whatever settings differ only in their seed; a second setting of a
method is an error unless asked to have a row of its own.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.find import Rejected
from sdkd_plugin.runs.read import Run
from sdkd_plugin.runs.record import HEADLINE
from sdkd_plugin.table.columns import Column, as_text, place_runs
from sdkd_plugin.table.metric import ShownMetric, find_metric
from sdkd_plugin.table.published import STUDENT
from sdkd_plugin.table.rows import kind_of, read_split, row_name, row_order
from sdkd_plugin.table.statistics import Summary, summarize

Cells = dict[tuple[str, int], "TableCell"]  # by row, and position of the column

FAULTS = 5  # unusable folders that an error names


@dataclass
class TableCell:
    """The runs of one method in one column, one per seed.

    Args:
        finished: those whose records have the metric; they alone count.
        unmeasured: finished ones of a version or host that does not record the metric.
        rank: among the column's finished cells by last-epoch mean, 1 is best, equals share.
        gain: last-epoch mean minus the vanilla student's in the same column.
        other_seeds: the vanilla student's seeds are not the same or mean nothing, so that the
            gain is no paired difference.
    """

    column: Column
    row: str
    metric: ShownMetric
    finished: list[Run] = field(default_factory=list)
    unfinished: list[Run] = field(default_factory=list)
    unmeasured: list[Run] = field(default_factory=list)
    rank: int | None = None
    gain: float | None = None
    other_seeds: bool = False

    @property
    def runs(self) -> list[Run]:
        return [*self.finished, *self.unfinished, *self.unmeasured]

    def add(self, run: Run) -> None:
        if run.result is None:
            self.unfinished.append(run)
        elif self.metric.measured(run):
            self.finished.append(run)
        else:
            self.unmeasured.append(run)

    def scores(self, statistic: str) -> dict[int, float]:
        """Seed to the metric's value. statistic: last | best."""
        name = self.metric.name
        return {run.seed: getattr(run.record, statistic)[name] for run in self.finished}

    def summary(self, statistic: str) -> Summary:
        """Mean and spread over seeds of a cell with finished runs. statistic: last | best."""
        return summarize(list(self.scores(statistic).values()))

    @property
    def alone(self) -> list[Run]:
        """The finished runs that one process trained alone: times and memory are their own."""
        one = (1, 1)
        return [r for r in self.finished if (r.record.group_size, r.record.processes) == one]

    def mean_of(self, key: str) -> float | None:
        """Mean of a cost in the records of the runs that were trained alone; None if there is none,
        or a run's host does not record it.
        """
        values = [getattr(run.record, key) for run in self.alone]
        return None if None in values or not values else fmean(values)

    @property
    def hours(self) -> float | None:
        """Of training and evaluation, as `mean_of` has it."""
        seconds = self.mean_of("wall_seconds")
        return None if seconds is None else seconds / 3600


@dataclass(frozen=True)
class Comparison:
    """Everything a table of runs shows of one metric.

    Args:
        rows: method names as shown, the vanilla student first.
        cells: by (row, index of the column); absent where there is no run.
        shared: the part of the protocol all columns agree in.
        differing: letter to the part they do not.
        duplicates: (left out, kept) runs of equal identity.
        teachers: vanilla runs of a model that teaches here and learns nowhere here.
    """

    metric: ShownMetric
    columns: list[Column]
    rows: list[str]
    cells: Cells
    shared: dict[str, Any]
    differing: dict[str, dict[str, Any]]
    rejected: list[Rejected]
    duplicates: list[tuple[Run, Run]]
    teachers: list[Run]

    def in_column(self, index: int) -> list[TableCell | None]:
        """A column's cell for each row."""
        return [self.cells.get((row, index)) for row in self.rows]

    def teacher_score(self, index: int) -> float | None:
        """A trained teacher's own value, mean over the column's runs, each of which measured it at
        its start; None where nobody did.

        Of a teacher that is trained along with the student there is none.
        """
        runs = [run for cell in self.in_column(index) if cell for run in cell.finished]
        measured = [run.record.teacher_score or {} for run in runs if run.teacher_hash]
        scores = [scores[self.metric.name] for scores in measured if self.metric.name in scores]
        return fmean(scores) if scores else None

    @property
    def images(self) -> str:
        """Which images the scores are on: test | val, or both."""
        return " or ".join(sorted({run.evaluates for run in self.counted}))

    @property
    def counted(self) -> list[Run]:
        """Every run that stands in a cell, once."""
        runs = {run.path: run for cell in self.cells.values() for run in cell.runs}
        return [runs[path] for path in sorted(runs)]


def compare_runs(
    runs: Sequence[Run],
    rejected: Sequence[Rejected],
    split: Sequence[str] = (),
    metric: str = HEADLINE,
    labels: Mapping[str, str] | None = None,
) -> Comparison:
    """Sorts runs into cells.

    Args:
        split: method settings, such as SDKD.FUSION, each value of which gets a row of its own;
            with =VALUE runs of that value keep the method's own row.
        metric: which of the metrics in the runs' records.
        labels: the row's name of some kinds of runs, by `kind_of` them, in the rows' order.
    Raises:
        UserError: no usable run; two settings of a method in one cell; a `split` key, value
            or metric that no run has.
    """
    if not runs:
        faults = "; ".join(f"{bad.path}: {bad.reason}" for bad in rejected[:FAULTS])
        more = f"; and {len(rejected) - FAULTS} more" if len(rejected) > FAULTS else ""
        raise UserError(f"no run can be used; {faults}{more}")
    rows_of = read_split(split, runs)
    shown = find_metric(runs, metric)

    kept, duplicates = _without_duplicates(runs, shown)
    placement = place_runs(kept)
    cells: Cells = {}
    labels = labels or {}
    for run, indices in placement.placed:
        row = labels.get(kind_of(run)) if labels else None
        row = row or row_name(run, rows_of)
        for index in indices:
            empty = TableCell(placement.columns[index], row, shown)
            cells.setdefault((row, index), empty).add(run)
    for cell in cells.values():
        _check_one_setting(cell)
    _rank(cells)

    return Comparison(
        metric=shown,
        columns=placement.columns,
        rows=sorted({row for row, _ in cells}, key=row_order(list(labels.values()))),
        cells=cells,
        shared=placement.shared,
        differing=placement.differing,
        rejected=list(rejected),
        duplicates=duplicates,
        teachers=placement.teachers,
    )


def _without_duplicates(
    runs: Sequence[Run], metric: ShownMetric
) -> tuple[list[Run], list[tuple[Run, Run]]]:
    """Runs of equal identity are one run: one with the metric counts before a finished one, and
    that before the others; the first by path where several are alike.
    """
    alike: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        names = [run.method, run.teacher, run.student, run.seed, run.teacher_hash]
        alike[as_text([names, run.protocol, run.recipe])].append(run)

    def order(run: Run) -> tuple:
        return (not metric.measured(run), run.result is None, run.path)

    kept = []
    duplicates = []
    for group in alike.values():
        first, *others = sorted(group, key=order)
        kept.append(first)
        duplicates += [(other, first) for other in others]
    return sorted(kept, key=lambda run: run.path), sorted(duplicates, key=lambda pair: pair[0].path)


def _check_one_setting(cell: TableCell) -> None:
    first, *others = cell.runs
    for run in others:
        either = first.recipe.keys() | run.recipe.keys()
        keys = sorted(key for key in either if first.recipe.get(key) != run.recipe.get(key))
        if not keys:
            continue
        values = ", ".join(
            f"{key} {first.recipe.get(key)!r} against {run.recipe.get(key)!r}" for key in keys
        )
        raise UserError(
            f"{first.path} and {run.path} both claim the cell {cell.row}, {cell.column.pair} "
            f"with different settings: {values}; leave one out, or give each a row of its own "
            f"with --split {' '.join(keys)}"
        )


def _rank(cells: Cells) -> None:
    means = {key: cell.summary("last").mean for key, cell in cells.items() if cell.finished}
    for (row, index), mean in means.items():
        cell = cells[row, index]
        rivals = [other for (_, at), other in means.items() if at == index]
        cell.rank = cell.metric.rank(mean, rivals)
        if row != STUDENT and (STUDENT, index) in means:
            cell.gain = mean - means[STUDENT, index]
            same = cell.scores("last").keys() == cells[STUDENT, index].scores("last").keys()
            cell.other_seeds = not (same and cell.column.seeded)

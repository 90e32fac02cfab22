"""What every format prints: grids of cells, built from a comparison or from a published table."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sdkd_plugin.table.cells import Comparison, TableCell
from sdkd_plugin.table.published import (
    GAIN,
    SHOWN_GAIN_OF,
    STUDENT,
    TEACHER,
    Published,
    departures,
    find_published,
    is_cifar100,
)
from sdkd_plugin.table.statistics import CONFIDENCE, Paired
from sdkd_plugin.table.versus import Versus

MARKS = {
    "†": "one seed: tells nothing of the spread",
    "‡": "has unfinished runs, which do not count; they are listed below",
    "§": "its gain compares different seeds than the student row's, or its trainer sets none",
    "¶": "the published run had another schedule or teacher; the differences are listed below",
    "◊": "the published number is the best epoch on the test images, ours the last epoch",
}
SAME_TEACHER = (
    0.05  # percent; the published teachers' files score what was published, up to rounding
)
# Protocol keys named above a table; where columns differ in any other key, that is named as well.
HEADLINE = (
    "DATASET.TYPE",
    "DATASET.SUBSET",
    "DATASET.VAL_FRACTION",
    "DATASET.IMAGE_SIZE",
    "DATASET.AUGMENT",
    "SOLVER.EPOCHS",
    "SOLVER.SCHEDULE_EPOCHS",
    "SOLVER.BATCH_SIZE",
    "SOLVER.LR",
    "SOLVER.LR_DECAY_STAGES",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.PRECISION",
    "data",
)


@dataclass(frozen=True)
class Cell:
    """One printed cell.

    Args:
        text: as shown.
        value: what a sortable table sorts by and CSV prints; None: `text`.
        best: the best of its column.
        marks: footnote signs, keys of MARKS.
    """

    text: str
    value: float | None = None
    best: bool = False
    marks: str = ""


EMPTY = Cell("")


@dataclass(frozen=True)
class Grid:
    """One printed table: a name for ids, a title, column heads, rows of as many cells, and notes
    under it.
    """

    name: str
    title: str
    head: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)

    @property
    def text_columns(self) -> list[int]:
        """Positions of the columns that hold words, not numbers; they are set flush left."""
        return [
            column
            for column in range(len(self.head))
            if all(row[column].value is None for row in self.rows)
        ]


def published_grid(rows: Sequence[Published]) -> Grid:
    """A published table as printed; where SDKD and the student stand in it, with their computed
    difference as last row.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    pairs = list(dict.fromkeys((row.teacher, row.student) for row in rows))
    found = {(row.method, row.teacher, row.student): row for row in rows}
    contest = [method for method in methods if method != TEACHER]
    best = {
        pair: max(float(found[m, *pair].value) for m in contest if (m, *pair) in found)
        for pair in pairs
    }
    grid = []
    for method in methods:
        cells = [Cell(method)]
        for pair in pairs:
            row = found.get((method, *pair))
            value = float(row.value) if row else None
            cells.append(
                Cell(row.value, value, method != TEACHER and value == best[pair]) if row else EMPTY
            )
        grid.append(cells)
    if SHOWN_GAIN_OF in methods and STUDENT in methods:
        gains = [
            float(found[SHOWN_GAIN_OF, *pair].value) - float(found[STUDENT, *pair].value)
            for pair in pairs
        ]
        grid.append([Cell(GAIN), *(Cell(f"{gain:.2f}", gain) for gain in gains)])
    sources: dict[str, list[str]] = {}
    for row in rows:
        sources.setdefault(f"{row.source}; epoch: {row.statistic}", []).append(row.method)
    notes = []
    for source, of in sources.items():
        names = list(dict.fromkeys(of))
        notes.append(f"{'all' if names == methods else ', '.join(names)}: {source}")
    head = ["method", *(f"{teacher}/{student}" for teacher, student in pairs)]
    return Grid("published", "Published top-1 accuracy (%) on CIFAR-100", head, grid, notes)


def main_grid(comparison: Comparison, best_epoch: bool) -> Grid:
    """Methods by pairs: last epoch, mean ± sample sd (n); with `best_epoch` the best epoch on the
    evaluated images beside it.
    """
    statistics = ["last", "best"] if best_epoch else ["last"]
    head, rows = ["method"], [[Cell(TEACHER)], *([Cell(row)] for row in comparison.rows)]
    for index, column in enumerate(comparison.columns):
        images = "val" if column.protocol["DATASET.VAL_FRACTION"] > 0 else "test"
        for statistic in statistics:
            head.append(
                column.label if statistic == "last" else f"{column.label} best {images} epoch"
            )
            top = comparison.teacher_top1(index) if statistic == "last" else None
            rows[0].append(EMPTY if top is None else Cell(f"{top:.2f}", top))
            for line, cell in zip(
                rows[1:], _column_cells(comparison, index, statistic), strict=True
            ):
                line.append(cell)
    images = " or ".join(sorted({run.evaluates for run in comparison.counted}))
    title = (
        f"Top-1 accuracy (%) on the {images} images, last epoch: mean ± sample standard "
        f"deviation (seeds)"
    )
    return Grid("accuracy", title, head, rows, _protocol_notes(comparison) + _mark_notes(rows))


def _column_cells(comparison: Comparison, index: int, statistic: str) -> list[Cell]:
    cells = [comparison.cells.get((row, index)) for row in comparison.rows]
    means = [cell.summary(statistic).mean for cell in cells if cell and cell.finished]
    printed = []
    for cell in cells:
        if cell is None:
            printed.append(EMPTY)
        elif not cell.finished:
            printed.append(Cell("unfinished", marks=_marks(cell)))
        else:
            summary = cell.summary(statistic)
            spread = "" if summary.sd is None else f" ± {summary.sd:.2f}"
            text = f"{summary.mean:.2f}{spread} ({summary.n})"
            printed.append(Cell(text, summary.mean, summary.mean == max(means), _marks(cell)))
    return printed


def _marks(cell: TableCell) -> str:
    one = "†" if len(cell.finished) == 1 else ""
    return one + ("‡" if cell.unfinished else "")


def details_grid(comparison: Comparison, published: Sequence[Published]) -> Grid:
    """One line per cell: rank, gain over the vanilla student, the published number and the
    difference, and the cost.
    """
    head = [
        "pair",
        "method",
        "n",
        "top-1",
        "rank",
        "gain",
        "published",
        "difference",
        "hours",
        "peak MiB",
        "parameters",
    ]
    rows, differing, sources = [], {}, []
    for index, column in enumerate(comparison.columns):
        for printed, row in zip(
            _column_cells(comparison, index, "last"), comparison.rows, strict=True
        ):
            cell = comparison.cells.get((row, index))
            if cell is None or not cell.finished:
                continue
            number = published_number(cell, published)
            differences = []
            if number is not None:
                sources.append(f"{number.source}; epoch: {number.statistic}")
                differences = departures(column.protocol, column.student)
                differences += _other_teacher(comparison.teacher_top1(index), number, published)
                differing[column.label] = differences
            rows.append(
                [
                    Cell(column.label),
                    Cell(row),
                    *_detail_cells(cell, printed, number, bool(differences)),
                ]
            )
    notes = _mark_notes(rows)
    notes += [f"¶ {label}: {', '.join(keys)}" for label, keys in differing.items() if keys]
    notes += [f"published: {source}" for source in dict.fromkeys(sources)]
    timed = [run for run in comparison.counted if run.result and run.result.environment]
    devices = sorted({_device(run.result.environment) for run in timed})
    if devices:
        notes.append(
            f"hours and peak MiB: means over seeds, measured on {' and on '.join(devices)}"
        )
        notes.append(
            "peak MiB on a CPU is the whole process's, with whatever runs it had made before"
        )
    if len(devices) > 1:
        notes.append(
            "hours and peak MiB of different devices or thread counts stand side by side here: do "
            "not compare them"
        )
    used = [column for column in range(len(head)) if any(row[column] is not EMPTY for row in rows)]
    rows = [[row[column] for column in used] for row in rows]
    return Grid(
        "details",
        "Rank, gain, published number and cost",
        [head[column] for column in used],
        rows,
        notes,
    )


def published_number(cell: TableCell, published: Sequence[Published]) -> Published | None:
    """The published number for a cell; None as well where the cell's images are not the whole
    CIFAR-100.
    """
    column = cell.column
    if not is_cifar100(column.protocol) or column.teacher is None:
        return None
    return find_published(published, cell.row, column.teacher, column.student)


def _other_teacher(
    top1: float | None, number: Published, published: Sequence[Published]
) -> list[str]:
    """Says so if our teacher is not as good as the one behind a published number, or better."""
    table = [row for row in published if row.table == number.table]
    theirs = find_published(table, TEACHER, number.teacher, number.student)
    if top1 is None or theirs is None or abs(top1 - float(theirs.value)) <= SAME_TEACHER:
        return []
    return [f"teacher {top1:.2f} % (published: {theirs.value})"]


def _detail_cells(
    cell: TableCell, printed: Cell, number: Published | None, differs: bool
) -> list[Cell]:
    mean, memory = cell.summary("last").mean, cell.mean_of("peak_memory_mib")
    parameters = {run.result.deployed_parameters for run in cell.finished}
    beside, difference = EMPTY, EMPTY
    if number is not None:
        marks = ("¶" if differs else "") + ("◊" if number.statistic == "best" else "")
        beside = Cell(number.value, float(number.value), marks=marks)
        difference = _signed(mean - float(number.value))
    return [
        Cell(str(len(cell.finished)), len(cell.finished)),
        printed,
        Cell(str(cell.rank), cell.rank),
        EMPTY if cell.gain is None else _signed(cell.gain, "§" if cell.other_seeds else ""),
        beside,
        difference,
        EMPTY if cell.hours is None else Cell(f"{cell.hours:.3g}", cell.hours),
        EMPTY if memory is None else Cell(f"{memory:.0f}", memory),
        Cell(" or ".join(f"{count:,}" for count in sorted(parameters)), max(parameters)),
    ]


def versus_grid(tests: Versus) -> Grid:
    """One method against every other, paired by seed."""
    rows = [
        [
            Cell(test.cell.column.label),
            Cell(test.cell.row),
            *_paired_cells(test.paired, test.holm_p),
        ]
        for test in tests.tests
    ]
    reasons = {
        True: "have no finished seed in common",
        False: "cannot be paired: their trainer sets no seed",
    }
    notes = [
        f"{cell.column.label}: {tests.ours} and {cell.row} {reasons[cell.column.seeded]}"
        for cell in tests.unpaired
    ]
    notes.append(
        "interval: Student's t over paired differences; p: exact two-sided sign flips; "
        f"Holm: over all tests here, {len(rows)} in number"
    )
    powerless = sorted(
        {test.paired.n for test in tests.tests if test.paired.smallest_p > 1 - CONFIDENCE}
    )
    if powerless:
        notes.append(
            f"n = {', '.join(map(str, powerless))}: p cannot get below 0.05 whatever the numbers "
            f"are; from 6 seeds it can"
        )
    head = [
        "pair",
        "against",
        "n",
        "mean difference",
        "95 % interval",
        "p",
        "smallest p of n",
        "p (Holm)",
    ]
    return Grid(
        "versus",
        f"{tests.ours} minus the other method, last epoch, paired by seed",
        head,
        rows,
        notes,
    )


def _paired_cells(paired: Paired, holm_p: float) -> list[Cell]:
    interval = "n = 1" if paired.low is None else f"{paired.low:+.2f} to {paired.high:+.2f}"
    return [
        Cell(str(paired.n), paired.n),
        _signed(paired.mean),
        Cell(interval, paired.low),
        *(Cell(f"{p:.4f}", p) for p in (paired.p, paired.smallest_p, holm_p)),
    ]


def listed_runs(comparison: Comparison) -> list[str]:
    """Every folder that was found and does not count, with the reason: nothing is dropped in
    silence.
    """
    lines = [f"invalid: {bad.path}: {bad.reason}" for bad in comparison.rejected]
    unfinished = [run for run in comparison.counted if run.result is None]
    lines += [f"unfinished: {run.path}: {run.progress}; go on with --resume" for run in unfinished]
    for left_out, kept in comparison.duplicates:
        scores = [
            f"{run.result.last['top1']:.2f}" if run.result else "unfinished"
            for run in (left_out, kept)
        ]
        lines.append(
            f"duplicate: {left_out.path} ({scores[0]}) is the same run as {kept.path} "
            f"({scores[1]}), which counts"
        )
    for run in comparison.teachers:
        score = (
            f"top-1 {run.result.last['top1']:.2f}" if run.result else f"unfinished, {run.progress}"
        )
        lines.append(
            f"teacher: {run.path}: vanilla {run.student}, {score}; no column learns with it as "
            f"student"
        )
    return lines


def _protocol_notes(comparison: Comparison) -> list[str]:
    shown = [f"{key} {comparison.shared[key]}" for key in HEADLINE if key in comparison.shared]
    notes = [f"all runs: {', '.join(shown)}"]
    for letter, own in comparison.differing.items():
        notes.append(f"[{letter}] {', '.join(f'{key} {value}' for key, value in own.items())}")
    foreign = [column.label for column in comparison.columns if not column.seeded]
    if foreign:
        text = (
            "trained by mdistiller, which sets no seed, logs two decimals and records no "
            "setting but those shown here"
        )
        notes.append(f"{', '.join(foreign)}: {text}")
    return notes


def _mark_notes(rows: Sequence[Sequence[Cell]]) -> list[str]:
    used = {mark for row in rows for cell in row for mark in cell.marks}
    return [f"{mark} {text}" for mark, text in MARKS.items() if mark in used]


def _signed(value: float, marks: str = "") -> Cell:
    return Cell(f"{value:+.2f}", value, marks=marks)


def _device(environment: dict) -> str:
    threads = environment.get("threads")
    return f"{environment.get('device')}" + (f" with {threads} threads" if threads else "")

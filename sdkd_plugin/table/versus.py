"""One method tested against every other of its column, over the seeds both have."""

from dataclasses import dataclass
from itertools import combinations

from sdkd_plugin.errors import unknown
from sdkd_plugin.table.cells import Comparison, TableCell
from sdkd_plugin.table.grids import EMPTY, Cell, Grid
from sdkd_plugin.table.metric import ShownMetric
from sdkd_plugin.table.statistics import (
    CONFIDENCE,
    DRAWN,
    DRAWN_SEED,
    EXACT,
    Paired,
    compare_paired,
    holm,
)

TEST_HEAD = ["n", "mean difference", "95 % interval", "p", "smallest p of n", "p (Holm)"]
WHY_UNPAIRED = {
    True: "have no finished seed in common",
    False: "cannot be paired: their trainer sets no seed",
}


@dataclass(frozen=True)
class PairedTest:
    """`paired` is ours minus `cell`'s; `holm_p` is corrected for all tests of the table, None where
    n = 1: p is 1 then whatever the numbers are, and the others need not pay for it (Tarone, A
    Modified Bonferroni Method for Discrete Data, Biometrics, 1990).
    """

    cell: TableCell
    paired: Paired
    holm_p: float | None


@dataclass(frozen=True)
class Versus:
    """All tests of the row `ours`, and the cells it cannot be paired with: no finished seed in
    common, or none that means it.
    """

    ours: str
    metric: ShownMetric
    tests: list[PairedTest]
    unpaired: list[TableCell]

    @property
    def sampled(self) -> bool:
        """Whether a p here comes of drawn sign patterns."""
        return any(test.paired.sampled for test in self.tests)


def run_versus(comparison: Comparison, name: str) -> Versus:
    """Tests the row called `name`, in any case, in every column where it stands.

    Raises:
        UserError: no row is called so.
    """
    ours = next((row for row in comparison.rows if row.lower() == name.lower()), None)
    if ours is None:
        raise unknown("method", name, comparison.rows, "--versus")

    compared: list[tuple[TableCell, Paired]] = []
    unpaired = []
    for index in range(len(comparison.columns)):
        mine = comparison.cells.get((ours, index))
        for other in comparison.in_column(index):
            if mine is None or other is None or other is mine:
                continue
            paired = None
            if mine.column.seeded:
                paired = compare_paired(mine.scores("last"), other.scores("last"))
            if paired is None:
                unpaired.append(other)
            else:
                compared.append((other, paired))

    corrected = iter(holm([paired.p for _, paired in compared if paired.n > 1]))
    tests = [
        PairedTest(cell, paired, next(corrected) if paired.n > 1 else None)
        for cell, paired in compared
    ]
    return Versus(ours, comparison.metric, tests, unpaired)


def number_of_pairs(comparison: Comparison) -> int:
    """How many pairs of methods there are in one column, over all columns."""
    finished = [
        sum(1 for cell in comparison.in_column(index) if cell is not None and cell.finished)
        for index in range(len(comparison.columns))
    ]
    return sum(number * (number - 1) // 2 for number in finished)


def every_pair(comparison: Comparison) -> list[tuple[TableCell, PairedTest]]:
    """Every two methods of a column that have two seeds or more in common, the better one first;
    Holm's correction is for all of them.
    """
    compared: list[tuple[TableCell, TableCell, Paired]] = []
    for index, column in enumerate(comparison.columns):
        cells = [cell for cell in comparison.in_column(index) if cell is not None and cell.finished]
        ranked = sorted(cells, key=lambda cell: cell.rank or 0)
        for ours, theirs in combinations(ranked, 2):
            paired = None
            if column.seeded:
                paired = compare_paired(ours.scores("last"), theirs.scores("last"))
            if paired is not None and paired.n > 1:
                compared.append((ours, theirs, paired))

    corrected = holm([paired.p for _, _, paired in compared])
    return [
        (ours, PairedTest(theirs, paired, p))
        for (ours, theirs, paired), p in zip(compared, corrected, strict=True)
    ]


def versus_grid(versus: Versus) -> Grid:
    """One method against every other, paired by seed."""
    rows = []
    for test in versus.tests:
        names = [Cell(test.cell.column.label), Cell(test.cell.row)]
        rows.append(names + paired_cells(test, versus.metric))

    head = ["pair", "against", *TEST_HEAD]
    if versus.sampled:
        head.append("sign patterns")
        for row, test in zip(rows, versus.tests, strict=True):
            row.append(Cell(test.paired.patterns))
    title = f"{versus.ours} minus the other method, last epoch, paired by seed"
    return Grid("versus", title, head, rows, versus_notes(versus))


def versus_notes(versus: Versus) -> list[str]:
    """What the tests are, and what they cannot say."""
    notes = [
        f"{cell.column.label}: {versus.ours} and {cell.row} {WHY_UNPAIRED[cell.column.seeded]}"
        for cell in versus.unpaired
    ]
    paired = [test.paired for test in versus.tests]
    counted = sum(each.n > 1 for each in paired)
    single = " but those of one seed" if counted < len(paired) else ""
    notes.append(
        "interval: Student's t over paired differences; p: two-sided sign flips, exact where all "
        f"are counted; Holm: over all tests here{single}, {counted} in number"
    )
    if versus.sampled:
        notes.append(
            f"beyond {EXACT} pairs p is sampled: {DRAWN:,} sign patterns drawn with seed "
            f"{DRAWN_SEED}; it cannot get below {1 / (DRAWN + 1):g}"
        )
    powerless = sorted({each.n for each in paired if each.smallest_p > 1 - CONFIDENCE})
    if powerless:
        notes.append(
            f"n = {', '.join(map(str, powerless))}: p cannot get below 0.05 whatever the numbers "
            f"are; from 6 seeds it can"
        )
    return versus.metric.notes + notes


def paired_cells(test: PairedTest, metric: ShownMetric) -> list[Cell]:
    """A line's cells from n on, as TEST_HEAD names them."""
    paired = test.paired
    interval = "n = 1"
    if paired.low is not None and paired.high is not None:
        interval = f"{metric.signed(paired.low)} to {metric.signed(paired.high)}"
    return [
        Cell(str(paired.n), paired.n),
        Cell(metric.signed(paired.mean), paired.mean),
        Cell(interval, paired.low),
        *(Cell(f"{p:.4f}", p) for p in (paired.p, paired.smallest_p)),
        EMPTY if test.holm_p is None else Cell(f"{test.holm_p:.4f}", test.holm_p),
    ]

"""One method tested against every other of its column, over the seeds both have."""

from dataclasses import dataclass

from sdkd_plugin.errors import unknown
from sdkd_plugin.table.cells import Comparison, TableCell
from sdkd_plugin.table.statistics import Paired, compare_paired, holm


@dataclass(frozen=True)
class PairedTest:
    """`paired` is ours minus `cell`'s; `holm_p` is corrected for all tests of the table."""

    cell: TableCell
    paired: Paired
    holm_p: float


@dataclass(frozen=True)
class Versus:
    """All tests of the row `ours`, and the cells it cannot be paired with: no finished seed in
    common, or none that means it.
    """

    ours: str
    tests: list[PairedTest]
    unpaired: list[TableCell]


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
        for row in comparison.rows:
            mine, other = comparison.cells.get((ours, index)), comparison.cells.get((row, index))
            if row == ours or mine is None or other is None:
                continue
            paired = (
                compare_paired(mine.scores("last"), other.scores("last"))
                if mine.column.seeded
                else None
            )
            if paired is None:
                unpaired.append(other)
            else:
                compared.append((other, paired))
    corrected = holm([paired.p for _, paired in compared])
    tests = [
        PairedTest(cell, paired, p) for (cell, paired), p in zip(compared, corrected, strict=True)
    ]
    return Versus(ours, tests, unpaired)

"""Every two methods of a column against each other, paired by seed."""

from collections.abc import Sequence

from sdkd_plugin.table.cells import Comparison
from sdkd_plugin.table.grids import Cell, Grid
from sdkd_plugin.table.page.section import Section
from sdkd_plugin.table.versus import TEST_HEAD, every_pair, number_of_pairs, paired_cells

MOST = 1000  # pairs that are tested unasked


def pairs_section(comparison: Comparison, asked: Sequence[Grid]) -> Section:
    """One method's tests, where they were asked for, else those of every two methods."""
    title = "Pairs of methods"
    if asked:
        return Section("pairs", title, grids=list(asked))
    number = number_of_pairs(comparison)
    if number > MOST:
        told = f"{number:,} pairs of methods are too many to test; --versus METHOD tests one's"
        return Section("pairs", title, [told])
    grid = _grid(comparison)
    notes = ["--versus METHOD tests one method alone, for which Holm's correction costs less"]
    if not grid.rows:
        notes = ["No two methods of a column have two finished seeds in common"]
    return Section("pairs", title, notes, grids=[grid] if grid.rows else [])


def _grid(comparison: Comparison) -> Grid:
    tests = every_pair(comparison)
    rows = [
        [
            Cell(ours.column.label),
            Cell(ours.row),
            Cell(test.cell.row),
            *paired_cells(test, comparison.metric),
        ]
        for ours, test in tests
    ]
    notes = [
        "difference: the method minus the other, the better one first; interval: Student's t over "
        "paired differences; p: two-sided sign flips; Holm: over all tests here, "
        f"{len(rows)} in number"
    ]
    title = f"{comparison.metric.title} of the last epoch: differences paired by seed"
    head = ["pair", "method", "against", *TEST_HEAD]
    return Grid("every-pair", title, head, rows, comparison.metric.notes + notes)

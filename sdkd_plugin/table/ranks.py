"""The order of the methods beside a published table's: ranks, unlike accuracies, can be compared
across image sizes and schedules.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdkd_plugin.table.cells import Comparison, TableCell
from sdkd_plugin.table.grids import Cell, Grid
from sdkd_plugin.table.published import STUDENT, Published, find_published
from sdkd_plugin.table.statistics import CONFIDENCE, DRAWN, DRAWN_SEED

FEWEST = 4  # methods of a pair: with three, rho is one of four numbers
EPOCHS = {"last": "last", "best": "best", "unknown": "last"}  # published: ours beside it


@dataclass(frozen=True)
class Ranked:
    """A method in both orders; ranks count from the best, from 1, equal values share their mean."""

    cell: TableCell
    number: Published
    rank: float
    published_rank: float


@dataclass(frozen=True)
class Ranks:
    """The methods of one pair that both sides have, with published numbers of one kind.

    Args:
        rho: Spearman's rank correlation, from -1 to 1; None where one side is all equal.
        low, high: its 95 % interval; None where there is none.
    """

    methods: list[Ranked]
    rho: float | None
    low: float | None
    high: float | None

    @property
    def label(self) -> str:
        """The pair's."""
        return self.methods[0].cell.column.label

    @property
    def statistic(self) -> str:
        """The epoch of all the published numbers: last | best | unknown."""
        return self.methods[0].number.statistic


def rank_columns(comparison: Comparison, published: Sequence[Published]) -> list[Ranks]:
    """The ranks of each column among published numbers of one kind, where FEWEST methods have them,
    by our mean of the same epoch, of the last one where theirs is unknown. The student alone is no
    method.
    """
    ranked = []
    for index, column in enumerate(comparison.columns):
        both: dict[tuple[str, ...], list[tuple[TableCell, Published]]] = {}
        for cell in comparison.in_column(index):
            if cell is None or not cell.finished or column.teacher is None or cell.row == STUDENT:
                continue
            number = find_published(published, cell.row, column.teacher, column.student)
            if number is not None:
                both.setdefault(number.kind, []).append((cell, number))
        ranked += [_rank(of_kind) for of_kind in both.values() if len(of_kind) >= FEWEST]
    return ranked


def spearman(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Spearman's rho of paired values: Pearson's correlation of their ranks, equal values sharing
    the mean rank.

    Args:
        ours, theirs: [..., m].
    Returns:
        [...], from -1 to 1; NaN where one side is all equal.
    Source: Spearman, The proof and measurement of association between two things, 1904.
    """
    from scipy.stats import rankdata  # takes a second to import

    a, b = (rankdata(x, axis=-1) - (x.shape[-1] + 1) / 2 for x in (ours, theirs))  # mean 0
    with np.errstate(invalid="ignore"):
        return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def bootstrap(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float] | None:
    """The percentile interval of rho over methods drawn with replacement, DRAWN times with a fixed
    seed; drawings in which one side is all equal are left out. None if all are.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    m = len(ours)
    drawn = np.random.Generator(np.random.PCG64(DRAWN_SEED)).integers(m, size=(DRAWN, m))
    rho = spearman(ours[drawn], theirs[drawn])
    rho = rho[~np.isnan(rho)]
    if not len(rho):
        return None
    low, high = np.quantile(rho, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def ranks_grid(ranked: Sequence[Ranks], table: str) -> Grid:
    """Both ranks of every method, our best first, and rho of each pair in the notes."""
    rows = []
    for ranks in ranked:
        for each in sorted(ranks.methods, key=lambda each: each.rank):
            moved = each.published_rank - each.rank
            rows.append(
                [
                    Cell(ranks.label),
                    Cell(each.cell.row),
                    _rank_cell(each.rank),
                    _rank_cell(each.published_rank),
                    Cell(f"{moved:+g}", moved),
                    Cell(ranks.statistic),
                ]
            )
    head = ["pair", "method", "rank", f"rank in {table}", "places gained", "published epoch"]
    title = f"Order of the methods beside the published table {table}"
    return Grid("ranks", title, head, rows, [*map(_sentence, ranked), *_notes(ranked)])


def _rank(both: list[tuple[TableCell, Published]]) -> Ranks:
    from scipy.stats import rankdata

    # rounded: equal means must not differ by a last bit
    means = [cell.summary(EPOCHS[number.statistic]).mean for cell, number in both]
    ours = np.array(means).round(9)
    theirs = np.array([float(number.value) for _, number in both])
    methods = [
        Ranked(cell, number, float(rank), float(other))
        for (cell, number), rank, other in zip(
            both, rankdata(-ours), rankdata(-theirs), strict=True
        )
    ]
    rho = float(spearman(ours, theirs))
    interval = None if np.isnan(rho) else bootstrap(ours, theirs)
    return Ranks(methods, None if np.isnan(rho) else rho, *(interval or (None, None)))


def _rank_cell(rank: float) -> Cell:
    return Cell(f"{rank:g}", rank)


def _sentence(ranks: Ranks) -> str:
    start = f"{ranks.label}: {len(ranks.methods)} methods ({ranks.statistic} epoch), "
    if ranks.rho is None or ranks.low is None:
        return start + "no rank correlation: all values of one side are equal"
    return start + (
        f"Spearman's rho {ranks.rho:.2f}, 95 % interval {ranks.low:.2f} to {ranks.high:.2f}"
    )


def _notes(ranked: Sequence[Ranks]) -> list[str]:
    kinds = "methods of one pair whose published numbers are of one epoch, or of an unknown one in "
    kinds += "one source, are compared with each other: best with our best, else with our last"
    if not ranked:
        return [f"no pair has {FEWEST} methods with a published number of one kind", kinds]
    return [
        f"{kinds}; fewer than {FEWEST} of a kind are left out",
        f"interval: bootstrap, {DRAWN:,} drawings of methods with replacement, seed {DRAWN_SEED}; "
        "it does not know of the spread over seeds",
    ]

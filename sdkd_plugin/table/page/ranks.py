"""Each method's rank, with what other seeds might have made of it."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdkd_plugin.printable import printable
from sdkd_plugin.table.cells import Comparison, TableCell
from sdkd_plugin.table.grids import Cell, Grid
from sdkd_plugin.table.page.curves import COLUMNS, left_out
from sdkd_plugin.table.page.section import Picture, Section
from sdkd_plugin.table.page.style import COLOURS
from sdkd_plugin.table.page.svg import draw_svg, whole_ticks
from sdkd_plugin.table.statistics import DRAWN, rank_intervals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 34  # letters of a name that stand in one line


@dataclass(frozen=True)
class SpreadRank:
    """A method of two seeds or more, its rank among those of its column, and the 95 % interval."""

    cell: TableCell
    rank: int
    low: int
    high: int


def ranks_section(comparison: Comparison, published: Sequence[Grid]) -> Section:
    """Ranks with their intervals, and the order beside a published table's, where that was asked
    for.
    """
    columns = [spread_ranks(comparison, index) for index in range(len(comparison.columns))]
    pictures = [
        _picture(comparison, index, ranks) for index, ranks in enumerate(columns[:COLUMNS]) if ranks
    ]
    grids = [_grid(comparison, columns)] if any(columns) else []
    notes = []
    if grids:
        notes += left_out(comparison)
    else:
        notes.append("Intervals need two methods of two seeds or more in a column")
    if not published and comparison.metric.headline:
        notes.append("--ranks poster puts the order beside a published table's")
    return Section("ranks", "Ranks", notes, pictures, [*grids, *published])


def spread_ranks(comparison: Comparison, index: int) -> list[SpreadRank]:
    """A column's methods of two seeds or more, the best first; empty where there are not two."""
    cells = [c for c in comparison.in_column(index) if c is not None and len(c.finished) > 1]
    if len(cells) < 2:
        return []
    metric = comparison.metric
    means = [cell.summary("last").mean for cell in cells]
    scores = [list(cell.scores("last").values()) for cell in cells]
    found = [
        SpreadRank(cell, metric.rank(mean, means), low, high)
        for cell, mean, (low, high) in zip(
            cells, means, rank_intervals(scores, metric.lower_is_better), strict=True
        )
    ]
    return sorted(found, key=lambda each: each.rank)


def _grid(comparison: Comparison, columns: Sequence[Sequence[SpreadRank]]) -> Grid:
    rows = [
        [
            Cell(each.cell.column.label),
            Cell(each.cell.row),
            Cell(str(len(each.cell.finished)), len(each.cell.finished)),
            Cell(str(each.rank), each.rank),
            Cell(f"{each.low} to {each.high}", each.low),
        ]
        for ranks in columns
        for each in ranks
    ]
    notes = [
        f"interval: the middle 95 % of the rank when each method's seeds are drawn with "
        f"replacement, {DRAWN:,} times, each method's on their own; too narrow where seeds are few"
    ]
    single = sorted(
        {cell.row for cell in comparison.cells.values() if len(cell.finished) == 1},
    )
    if single:
        notes.append(f"left out, since one seed tells nothing of the spread: {', '.join(single)}")
    head = ["pair", "method", "n", "rank", "95 % interval"]
    title = f"Rank by mean {comparison.metric.label} of the last epoch, with its spread"
    return Grid("rank-intervals", title, head, rows, notes)


def _picture(comparison: Comparison, index: int, ranks: Sequence[SpreadRank]) -> Picture:
    label = comparison.columns[index].label
    lines = sum(len(_folded(each).splitlines()) for each in ranks)
    height = 0.7 + 0.05 * len(ranks) + 0.15 * lines
    drawn = draw_svg(
        f"ranks-{index}",
        f"{label}: rank of each method with its 95 % interval, as in the table below",
        lambda axes: _draw(axes, ranks),
        (4.8, height),
    )
    return Picture(drawn, f"{label}: rank, 1 is best; bar: 95 % interval over seeds.")


def _draw(axes: "Axes", ranks: Sequence[SpreadRank]) -> None:
    places = range(len(ranks))
    for place, each in zip(places, ranks, strict=True):
        axes.plot([each.low, each.high], [place, place], color=COLOURS[0], linewidth=2, alpha=0.6)
    axes.plot([each.rank for each in ranks], places, "o", color=COLOURS[0], markersize=5)
    axes.set_yticks(places, map(_folded, ranks), size=8)
    axes.set(xlabel="rank", xlim=(0.5, len(ranks) + 0.5), ylim=(len(ranks) - 0.4, -0.6))
    whole_ticks(axes)
    axes.grid(axis="x")


def _folded(each: SpreadRank) -> str:
    """Its name in lines of at most WIDTH letters."""
    return textwrap.fill(printable(each.cell.row), WIDTH)

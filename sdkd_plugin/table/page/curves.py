"""Learning curves: each method's mean over seeds, with its spread as a band."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from sdkd_plugin.printable import printable
from sdkd_plugin.runs.read import Run
from sdkd_plugin.table.cells import Comparison, TableCell
from sdkd_plugin.table.page.section import Picture, Section
from sdkd_plugin.table.page.style import look
from sdkd_plugin.table.page.svg import draw_svg, row_gid, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 12  # of a table that are drawn
POINTS = 80  # of a curve that are drawn
NARROWEST = 1.0  # the least that an axis of percentages spans


@dataclass(frozen=True)
class Curve:
    """Mean and sample standard deviation over runs, at each of some epochs; without spread where
    there is one run.
    """

    epochs: list[float]
    means: list[float]
    spreads: list[float] | None
    runs: int


def curves_section(comparison: Comparison) -> Section:
    """A picture for each column."""
    metric = comparison.metric
    pictures = []
    for index, column in enumerate(comparison.columns[:COLUMNS]):
        cells = comparison.in_column(index)
        curves = [None if cell is None else mean_curve(cell) for cell in cells]
        if any(curves):
            label = f"{column.label}: {metric.axis} over epoch, a line for each method"
            drawn = draw_svg(
                f"curves-{index}",
                label,
                partial(_draw, comparison=comparison, curves=curves),
            )
            pictures.append(Picture(drawn, f"{column.label}: {metric.label} over epochs."))

    notes = [
        f"Line: mean over seeds; band: ± sample standard deviation, where there are two seeds or "
        f"more. Finished runs; unfinished ones where a method has no other. The axis of "
        f"{metric.label} need not start at 0."
    ]
    if not pictures:
        notes = ["No complete epoch yet."]
    return Section("curves", "Learning curves", notes + left_out(comparison), pictures, legend=True)


def left_out(comparison: Comparison) -> list[str]:
    """Says which columns have no pictures."""
    number = len(comparison.columns)
    if number <= COLUMNS:
        return []
    return [
        f"Pictures of the first {COLUMNS} of {number} columns; give fewer folders to see the others"
    ]


def mean_curve(cell: TableCell) -> Curve | None:
    """The curve of a cell's finished runs, else of its unfinished ones, over the epochs that all of
    them have scored, thinned to POINTS; None where there is none.
    """
    name = cell.metric.name
    for runs in (cell.finished, cell.unfinished):
        found = [_by_epoch(run, name) for run in runs]
        found = [points for points in found if points]
        common = sorted(set.intersection(*(set(points) for points in found))) if found else []
        if common:
            epochs = _thinned(common)
            values = [[points[epoch] for points in found] for epoch in epochs]
            spreads = [stdev(each) for each in values] if len(found) > 1 else None
            return Curve(epochs, [fmean(each) for each in values], spreads, len(found))
    return None


def widen(axes: "Axes", comparison: Comparison) -> None:
    """So that a tenth of a percent does not fill the picture."""
    low, high = axes.get_ylim()
    room = NARROWEST / 2 - (high - low) / 2
    if comparison.metric.meaning.unit == "%" and room > 0:
        axes.set_ylim(low - room, high + room)


def _by_epoch(run: Run, name: str) -> dict[float, float]:
    return dict(run.curves.get(name, ()))


def _thinned(epochs: Sequence[float]) -> list[float]:
    """At most POINTS of them, evenly, with the first and the last."""
    if len(epochs) <= POINTS:
        return list(epochs)
    step = (len(epochs) - 1) / (POINTS - 1)
    return [epochs[round(place * step)] for place in range(POINTS)]


def _draw(axes: "Axes", comparison: Comparison, curves: Sequence[Curve | None]) -> dict[int, str]:
    metric = comparison.metric
    tips = {}
    for row, curve in enumerate(curves):
        if curve is None:
            continue
        style = look(row)
        (line,) = axes.plot(
            curve.epochs,
            curve.means,
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            markevery=max(1, len(curve.epochs) // 8),
        )
        line.set_gid(row_gid(row))
        tips[row] = (
            f"{comparison.rows[row]}: {metric.amount(curve.means[-1])} at epoch "
            f"{curve.epochs[-1]:g} (n = {curve.runs})"
        )
        if curve.spreads is not None:
            pairs = list(zip(curve.means, curve.spreads, strict=True))
            band = axes.fill_between(
                curve.epochs,
                [mean - sd for mean, sd in pairs],
                [mean + sd for mean, sd in pairs],
                color=style.colour,
                alpha=0.18,
                linewidth=0,
            )
            band.set_gid(row_gid(row))
    axes.set(xlabel="epoch", ylabel=printable(metric.axis))
    whole_ticks(axes)
    axes.grid()
    widen(axes, comparison)
    return tips

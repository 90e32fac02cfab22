"""A metric against what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sdkd_plugin.printable import printable
from sdkd_plugin.table.cells import Comparison
from sdkd_plugin.table.page.curves import COLUMNS, left_out, widen
from sdkd_plugin.table.page.section import Picture, Section
from sdkd_plugin.table.page.style import GREY, look
from sdkd_plugin.table.page.svg import draw_svg, row_gid
from sdkd_plugin.table.published import STUDENT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 26  # letters of a name beside its point
NAMES = 10  # up to which every point has its name beside it


@dataclass(frozen=True)
class Point:
    """A method of one column: mean hours and mean of the metric."""

    row: int
    name: str
    hours: float
    mean: float
    sd: float | None
    n: int


def cost_section(comparison: Comparison) -> Section:
    """A picture for each column that has a cost."""
    metric = comparison.metric
    pictures = []
    for index, column in enumerate(comparison.columns[:COLUMNS]):
        points = find_points(comparison, index)
        if points:
            label = f"{column.label}: {metric.axis} over hours of training, a point for each method"
            drawn = draw_svg(
                f"cost-{index}",
                label,
                partial(_draw, comparison=comparison, points=points),
            )
            pictures.append(Picture(drawn, f"{column.label}: {metric.label} against hours."))

    better = "down" if metric.lower_is_better else "up"
    notes = [
        f"Point: mean over seeds; bar: sample standard deviation; {better} and left is better. "
        f"Grey steps: methods of which none is both cheaper and better; where there are more than "
        f"{NAMES}, they and the student alone have their names beside them. The axis of "
        f"{metric.label} need not start at 0."
    ]
    if not pictures:
        notes = [
            "No run here was trained alone, so none has hours of its own; --no-lockstep gives them"
        ]
    what = "Accuracy" if metric.headline else metric.meaning.title
    title = f"{what} against cost"
    return Section("cost", title, notes + left_out(comparison), pictures, legend=True)


def find_points(comparison: Comparison, index: int) -> list[Point]:
    """Those of a column's cells that have hours of their own."""
    points = []
    for row, cell in enumerate(comparison.in_column(index)):
        if cell is not None and cell.finished and cell.hours is not None:
            found = cell.summary("last")
            points.append(Point(row, cell.row, cell.hours, found.mean, found.sd, found.n))
    return points


def frontier(points: Sequence[Point], lower_is_better: bool) -> list[Point]:
    """The points that no other is both cheaper and better than, cheapest first."""
    sign = 1 if lower_is_better else -1
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.hours, sign * each.mean)):
        if not best or sign * point.mean < sign * best[-1].mean:
            best.append(point)
    return best


def _draw(axes: "Axes", comparison: Comparison, points: Sequence[Point]) -> dict[int, str]:
    metric = comparison.metric
    best = frontier(points, metric.lower_is_better)
    hours = [each.hours for each in best]
    axes.plot(hours, [each.mean for each in best], color=GREY, linewidth=1, drawstyle="steps-post")
    widest = max(each.hours for each in points)
    tips = {}
    for each in points:
        style = look(each.row)
        drawn = axes.errorbar(
            each.hours,
            each.mean,
            yerr=each.sd,
            color=style.colour,
            marker=style.marker,
            markersize=5,
            linestyle="none",
        )
        for part in drawn.get_children():
            part.set_gid(row_gid(each.row))
        tips[each.row] = (
            f"{each.name}: {metric.amount(each.mean)} (n = {each.n}), {each.hours:.3g} hours"
        )
        if len(points) <= NAMES or each in best or each.name == STUDENT:
            left = each.hours > 0.6 * widest  # where there is room for it
            axes.annotate(
                _shortened(printable(each.name)),
                (each.hours, each.mean),
                xytext=(-7 if left else 7, 3),
                textcoords="offset points",
                ha="right" if left else "left",
                size=8,
                gid=row_gid(each.row),
            )
    axes.set(xlabel="hours of training and evaluation, mean over seeds")
    axes.set(ylabel=printable(metric.axis), xlim=(0, 1.08 * widest or 1))
    axes.grid()
    widen(axes, comparison)
    return tips


def _shortened(name: str) -> str:
    return name if len(name) <= WIDTH else f"{name[: WIDTH - 3]}..."

"""The comparison as a picture; needs matplotlib (extra `plots` or `demo`)."""

import textwrap
from typing import TYPE_CHECKING

from sdkd_plugin.errors import UserError
from sdkd_plugin.printable import printable
from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.cells import Comparison
from sdkd_plugin.table.figure import as_png, new_figure, plain_text
from sdkd_plugin.table.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DOTS = 150  # per inch
LARGEST = 2**16 - 1  # pixels of a side, which is matplotlib's limit


@FORMATS.register("png")
def render(report: Report) -> bytes:
    """Each cell's mean with its sample standard deviation and its single runs, one panel per
    column of the table.

    Points, not bars: bars would have to start at 0, where differences between methods do not show.

    Raises:
        UserError: matplotlib is not installed, or there are no runs to draw.
    """
    comparison = report.comparison
    if comparison is None:
        raise UserError("--format png draws runs; a published table has none: give folders")

    width = 2.5 + 4 * len(comparison.columns)
    height = 1.8 + 0.4 * len(comparison.rows)
    if max(width, height) * DOTS > LARGEST:
        raise UserError(
            f"--format png: {len(comparison.columns)} columns of {len(comparison.rows)} methods "
            "are too many for one picture; give fewer folders, or use --format html"
        )
    figure = new_figure(width, height)
    with plain_text():
        return _draw(figure, comparison, report.options.title)


def _draw(figure: "Figure", comparison: Comparison, title: str) -> bytes:
    panels = figure.subplots(1, len(comparison.columns), squeeze=False, sharey=True)[0]
    for index, axes in enumerate(panels):
        _draw_column(axes, comparison, index)

    # a letter of this size is about a twelfth of an inch
    what = f"{comparison.metric.title} on the {comparison.images} images, last epoch"
    title = textwrap.fill(printable(title or what), int(12 * figure.get_figwidth()))
    figure.suptitle(f"{title}\nmean ± sample standard deviation; strokes: single runs", size=10)
    return as_png(figure, DOTS)


def _draw_column(axes: "Axes", comparison: Comparison, index: int) -> None:
    metric = comparison.metric
    for height, cell in enumerate(comparison.in_column(index)):
        if cell is None or not cell.finished:
            continue
        summary = cell.summary("last")
        scores = list(cell.scores("last").values())
        colour = f"C{height}"
        axes.plot(scores, [height] * len(scores), "|", color=colour, markersize=14, alpha=0.6)
        axes.errorbar(summary.mean, height, xerr=summary.sd, fmt="o", color=colour, capsize=4)
        axes.annotate(
            metric.show(summary.mean),
            (summary.mean, height),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            size=8,
        )

    rows = [printable(row) for row in comparison.rows]
    axes.set(
        title=printable(comparison.columns[index].label),
        xlabel=f"{printable(metric.axis)}, last epoch; the axis does not start at 0",
        ylim=(len(rows) - 0.5, -0.7),
    )
    axes.set_yticks(range(len(rows)), rows)
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.3)

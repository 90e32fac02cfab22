"""The comparison as a picture file; needs matplotlib (extra `plots` or `demo`)."""

import io
import textwrap
from pathlib import Path

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import write_atomic
from sdkd_plugin.table.cells import Comparison


def write_png(comparison: Comparison, path: Path, title: str) -> None:
    """Draws each cell's mean with its sample standard deviation and its single runs, one panel per
    column of the table.

    Points, not bars: bars would have to start at 0, where differences between methods do not show.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import (
            Figure,  # without pyplot, which would choose a backend for the whole process
        )
    except ImportError as error:
        raise UserError(
            "the plot needs matplotlib; install it with: pip install 'sdkd-plugin[plots]'"
        ) from error
    count, rows = len(comparison.columns), comparison.rows
    width = 2.5 + 4 * count  # inches
    figure = Figure(figsize=(width, 1.8 + 0.4 * len(rows)), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    for index, (axes, column) in enumerate(zip(panels, comparison.columns, strict=True)):
        for height, row in enumerate(rows):
            cell = comparison.cells.get((row, index))
            if cell is None or not cell.finished:
                continue
            summary, colour = cell.summary("last"), f"C{height}"
            scores = list(cell.scores("last").values())
            axes.plot(scores, [height] * len(scores), "|", color=colour, markersize=14, alpha=0.6)
            axes.errorbar(summary.mean, height, xerr=summary.sd, fmt="o", color=colour, capsize=4)
            axes.annotate(
                f"{summary.mean:.2f}",
                (summary.mean, height),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                size=8,
            )
        axes.set(
            title=column.label,
            xlabel="top-1 (%), last epoch; the axis does not start at 0",
            ylim=(len(rows) - 0.5, -0.7),
        )
        axes.set_yticks(range(len(rows)), rows)
        axes.margins(x=0.1)
        axes.grid(axis="x", alpha=0.3)
    # a letter of this size is about a twelfth of an inch
    wrapped = textwrap.fill(title, int(12 * width))
    figure.suptitle(f"{wrapped}\nmean ± sample standard deviation; strokes: single runs", size=10)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_atomic(path, lambda file: file.write(picture.getvalue()))

"""A picture of a run's epochs, for trackers."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from sdkd_plugin.engine.evaluate import METRICS

DOTS = 100  # per inch

Row = Mapping[str, Any]


def draw_curves(history: Sequence[Row]) -> bytes | None:
    """Loss and accuracy by epoch, trained and evaluated, as a png; None without matplotlib (extra
    `plots`).
    """
    try:
        # without pyplot, which would choose a backend for the whole process
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "top1"), strict=True):
        for side in ("train", "test"):
            key = f"{side}_{name}"
            points = [(n, row[key]) for n, row in enumerate(history, 1) if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=side)
        axes.set(xlabel="epoch, all phases", ylabel=METRICS[name].title)
        axes.grid(alpha=0.3)
        axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS)
    return content.getvalue()

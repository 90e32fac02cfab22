"""The HTML page's pictures, as inline SVG: learning curves, and accuracy against cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sdkd_plugin.table.cells import Comparison

WIDTH, HEIGHT = 640, 360  # pixels of the viewBox
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 44  # margins, pixels
# so that neighbouring hues are told apart without colour as well
DASHES = ("none", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Series:
    """Points of one run or one method, drawn in its method's colour; `name` is its tooltip."""

    name: str
    style: int
    points: tuple[tuple[float, float], ...]


def learning_curves(comparison: Comparison, index: int) -> Markup:
    """Top-1 on the evaluated images over epochs, one line per run of a column, unfinished ones
    included.
    """
    series = []
    for style, row in enumerate(comparison.rows):
        cell = comparison.cells.get((row, index))
        for run in cell.finished + cell.unfinished if cell else ():
            series.append(Series(f"{row}, seed {run.seed}", style, run.curve))
    return _svg([s for s in series if s.points], "epoch", "top-1 (%)", lines=True)


def accuracy_against_cost(comparison: Comparison, index: int) -> Markup:
    """Mean last-epoch top-1 over mean hours, one point per method of a column, its standard
    deviation as a bar.
    """
    series, spreads = [], []
    for style, row in enumerate(comparison.rows):
        cell = comparison.cells.get((row, index))
        if cell and cell.finished and cell.hours is not None:
            summary, hours = cell.summary("last"), cell.hours
            spread = summary.sd or 0.0
            series.append(
                Series(
                    f"{row}: {summary.mean:.2f} % (n = {summary.n}), {hours:.3g} hours",
                    style,
                    ((hours, summary.mean),),
                )
            )
            spreads.append(spread)
    return _svg(
        series,
        "hours of training and evaluation, mean over seeds",
        "top-1 (%)",
        lines=False,
        spreads=spreads,
    )


def colour(style: int) -> str:
    """The css colour of the method in that row: hues a golden angle apart."""
    return f"hsl({style * 137.5 % 360:.0f} 70% 40%)"


def _svg(
    series: Sequence[Series], x_name: str, y_name: str, lines: bool, spreads: Sequence[float] = ()
) -> Markup:
    if not series:
        return Markup("<p>No complete epoch yet.</p>")
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    ys += [
        s.points[0][1] + sign * sd
        for s, sd in zip(series, spreads, strict=False)
        for sign in (-1, 1)
    ]
    room = max(0.5 - (max(ys) - min(ys)) / 2, 0)  # the axis of accuracies spans a percent at least
    x_ticks, y_ticks = ticks(0, max(xs)), ticks(min(ys) - room, max(ys) + room)
    place_x = _scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    place_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_name)} over '
        f'{escape(x_name)}">'
    ]
    for tick in x_ticks:
        x = place_x(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
        )
    for tick in y_ticks:
        y = place_y(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" '
        f'text-anchor="middle">{escape(x_name)}</text>'
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(14 {middle}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_name)}</text>'
    )
    for number, s in enumerate(series):
        sd = spreads[number] if spreads else 0.0
        parts.append(_drawn(s, place_x, place_y, lines, sd))
    parts.append("</svg>")
    return Markup("".join(parts))


def _drawn(s: Series, place_x, place_y, lines: bool, sd: float) -> str:
    places = [(place_x(x), place_y(y)) for x, y in s.points]
    head = f'<g class="series s{s.style}"><title>{escape(s.name)}</title>'
    if lines and len(places) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = DASHES[s.style % len(DASHES)]
        return (
            f'{head}<polyline points="{path}" fill="none" stroke="{colour(s.style)}" '
            f'stroke-dasharray="{dash}"/></g>'
        )
    (x, y), (_, mean) = places[0], s.points[0]
    bar = (
        f'<path d="M{x:.1f} {place_y(mean - sd):.1f}V{place_y(mean + sd):.1f}" '
        f'stroke="{colour(s.style)}"/>'
        if sd
        else ""
    )
    label = "" if lines else _label(s.name.split(":")[0], x, y)
    return (
        f'{head}{bar}<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour(s.style)}"/>{label}</g>'
    )


def _label(name: str, x: float, y: float) -> str:
    """Beside a point, on the side where there is room."""
    place = f'x="{x - 8:.1f}" text-anchor="end"' if x > 0.75 * WIDTH else f'x="{x + 8:.1f}"'
    return f'<text {place} y="{y + 4:.1f}">{escape(name)}</text>'


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers from at most `low` to at least `high`: multiples of 1, 2 or 5
    times a power of ten.
    """
    span = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-9)
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _scale(low: float, high: float, start: float, end: float):
    return lambda value: start + (value - low) / (high - low) * (end - start)

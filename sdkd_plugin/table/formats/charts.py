"""The HTML page's pictures, as inline SVG: learning curves, and a metric against cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sdkd_plugin.table.cells import Comparison

WIDTH = 640  # pixels of the viewBox
HEIGHT = 360
LEFT = 56  # margins, pixels
RIGHT = 12
TOP = 12
BOTTOM = 44
# so that neighbouring hues are told apart without colour as well
DASHES = ("none", "6 3", "2 3", "8 3 2 3")

Scale = Callable[[float], float]  # from a value to its pixel


@dataclass(frozen=True)
class Series:
    """Points of one run or one method, drawn in its method's colour.

    Args:
        name: its tooltip.
        spread: half the height of a bar through its one point; 0 draws none.
    """

    name: str
    style: int
    points: tuple[tuple[float, float], ...]
    spread: float = 0.0


def learning_curves(comparison: Comparison, index: int) -> Markup:
    """The metric on the evaluated images over epochs, one line per run of a column, unfinished ones
    included.
    """
    metric = comparison.metric
    series = []
    for style, cell in enumerate(comparison.in_column(index)):
        if cell is None:
            continue
        for run in cell.runs:
            points = run.curves.get(metric.name, ())
            if points:
                series.append(Series(f"{cell.row}, seed {run.seed}", style, points))
    return _svg(series, "epoch", metric.axis, _narrowest(comparison), lines=True)


def metric_against_cost(comparison: Comparison, index: int) -> Markup:
    """Mean last-epoch value over mean hours, one point per method of a column, its standard
    deviation as a bar.
    """
    metric = comparison.metric
    series = []
    for style, cell in enumerate(comparison.in_column(index)):
        if cell is None or not cell.finished or cell.hours is None:
            continue
        summary = cell.summary("last")
        told = f"{metric.amount(summary.mean)} (n = {summary.n}), {cell.hours:.3g} hours"
        point = (cell.hours, summary.mean)
        series.append(Series(f"{cell.row}: {told}", style, (point,), summary.sd or 0.0))
    x_name = "hours of training and evaluation, mean over seeds"
    return _svg(series, x_name, metric.axis, _narrowest(comparison), lines=False)


def colour(style: int) -> str:
    """The css colour of the method in that row: hues a golden angle apart."""
    return f"hsl({style * 137.5 % 360:.0f} 70% 40%)"


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers from at most `low` to at least `high`: multiples of 1, 2 or 5
    times a power of ten.
    """
    span = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-9)
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 6)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _narrowest(comparison: Comparison) -> float:
    """The least that the axis of values spans: a percent, where values are percentages."""
    return 1.0 if comparison.metric.meaning.unit == "%" else 0.0


def _svg(
    series: Sequence[Series], x_name: str, y_name: str, narrowest: float, lines: bool
) -> Markup:
    if not series:
        return Markup("<p>No complete epoch yet.</p>")
    xs = [x for s in series for x, _ in s.points]
    ys = [y + sign * s.spread for s in series for _, y in s.points for sign in (-1, 1)]
    room = max(narrowest / 2 - (max(ys) - min(ys)) / 2, 0)
    x_ticks = ticks(0, max(xs))
    y_ticks = ticks(min(ys) - room, max(ys) + room)
    place_x = _scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    place_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)

    label = f"{escape(y_name)} over {escape(x_name)}"
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    parts += _grid_lines(x_ticks, y_ticks, place_x, place_y)
    parts += _axis_names(x_name, y_name)
    draw = _line if lines else _point
    parts += [draw(s, place_x, place_y) for s in series]
    return Markup("".join([*parts, "</svg>"]))


def _grid_lines(
    x_ticks: Sequence[float], y_ticks: Sequence[float], place_x: Scale, place_y: Scale
) -> list[str]:
    parts = []
    for tick in x_ticks:
        x = place_x(tick)
        place = f'x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text {place} text-anchor="middle">{tick:g}</text>')
    for tick in y_ticks:
        y = place_y(tick)
        place = f'x="{LEFT - 6}" y="{y + 4:.1f}"'
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text {place} text-anchor="end">{tick:g}</text>')
    return parts


def _axis_names(x_name: str, y_name: str) -> list[str]:
    place = f'x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}"'
    turn = f'transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"'
    return [
        f'<text {place} text-anchor="middle">{escape(x_name)}</text>',
        f'<text {turn} text-anchor="middle">{escape(y_name)}</text>',
    ]


def _line(s: Series, place_x: Scale, place_y: Scale) -> str:
    """A curve; of a single epoch its point."""
    if len(s.points) == 1:
        return _group(s, _circle(s, place_x, place_y))
    path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in s.points)
    look = f'stroke="{colour(s.style)}" stroke-dasharray="{DASHES[s.style % len(DASHES)]}"'
    return _group(s, f'<polyline points="{path}" fill="none" {look}/>')


def _point(s: Series, place_x: Scale, place_y: Scale) -> str:
    """A point with its spread as a bar, and its name beside it, on the side where there is room."""
    ((hours, mean),) = s.points
    x = place_x(hours)
    y = place_y(mean)
    bar = ""
    if s.spread:
        ends = f"M{x:.1f} {place_y(mean - s.spread):.1f}V{place_y(mean + s.spread):.1f}"
        bar = f'<path d="{ends}" stroke="{colour(s.style)}"/>'

    side = f'x="{x + 8:.1f}"'
    if x > 0.75 * WIDTH:
        side = f'x="{x - 8:.1f}" text-anchor="end"'
    name = escape(s.name.split(":")[0])
    text = f'<text {side} y="{y + 4:.1f}">{name}</text>'
    return _group(s, bar + _circle(s, place_x, place_y) + text)


def _circle(s: Series, place_x: Scale, place_y: Scale) -> str:
    ((x, y),) = s.points
    return f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="4" fill="{colour(s.style)}"/>'


def _group(s: Series, drawn: str) -> str:
    return f'<g class="series s{s.style}"><title>{escape(s.name)}</title>{drawn}</g>'


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (value - low) / (high - low) * (end - start)

"""How a method looks in the pictures of the page: a colour, a dash and a marker."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from sdkd_plugin.table.page.svg import draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's, which people with any colour blindness tell apart; without the yellow, which is
# too pale on white. Source: Okabe and Ito, Color Universal Design, 2008.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v")

GREY = "#777777"


@dataclass(frozen=True)
class Look:
    """Told apart without colours as well."""

    colour: str
    dash: str
    marker: str


def look(row: int) -> Look:
    """That of the method in a row of the table. The three lists' lengths have no common divisor, so
    that the first 140 differ.
    """
    return Look(COLOURS[row % len(COLOURS)], DASHES[row % len(DASHES)], MARKERS[row % len(MARKERS)])


def swatch(row: int) -> Markup:
    """A piece of that method's line."""
    return draw_svg(f"swatch-{row}", "", lambda axes: _draw(axes, look(row)), (0.48, 0.15))


def _draw(axes: "Axes", style: Look) -> None:
    axes.plot([0, 1, 2], [0, 0, 0], style.dash, color=style.colour)
    axes.plot([1], [0], style.marker, color=style.colour)
    axes.set_axis_off()

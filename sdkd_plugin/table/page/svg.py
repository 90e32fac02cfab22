"""matplotlib's SVG as a part of a page."""

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from sdkd_plugin.errors import UserError
from sdkd_plugin.printable import printable
from sdkd_plugin.table.figure import new_figure, plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = "row-"  # begins the gid of what is drawn for a row of the table
HIDDEN = {"aria-hidden": "true"}
REFERENCE = re.compile(r"#([\w.-]+)")
STYLE = {
    "svg.fonttype": "none",  # letters stay letters: to be read aloud, searched and copied
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e0e0e0",
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
}


def draw_svg(
    name: str,
    label: str,
    draw: Callable[["Axes"], Mapping[int, str] | None],
    size: tuple[float, float] = (4.8, 3.3),
) -> Markup:
    """A picture of one panel, as an `svg` element.

    Args:
        name: of the picture on its page, from which the ids that it needs are made.
        label: what a reader hears who does not see it; "": nothing.
        draw: draws on the axes; what it draws for a row of the table has `row_gid` as its gid, and
            what it returns are those rows' tooltips.
        size: in inches.
    Returns:
        Without matplotlib, what to install: a page of tables is better than none.
    """
    try:
        figure = new_figure(*size)
    except UserError as error:
        return Markup("<p>{}</p>").format(str(error)) if label else Markup("")
    from matplotlib import rc_context

    drawn = io.BytesIO()
    style: Any = {**STYLE, "svg.hashsalt": name}
    with rc_context(style), plain_text():
        axes = figure.subplots()
        tips = draw(axes) or {}
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(drawn, format="svg", metadata=nothing, transparent=True)
    return _embedded(ElementTree.fromstring(drawn.getvalue()), name, label, tips)


def row_gid(row: int) -> str:
    """The gid of what is drawn for a row of the table."""
    return f"{ROW}{row}"


def whole_ticks(axes: "Axes") -> None:
    """Marks the x axis at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _embedded(svg: ElementTree.Element, name: str, label: str, tips: Mapping[int, str]) -> Markup:
    """Without what only a file of its own needs, and without ids that two pictures would share."""
    for element in svg.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key in [key for key in element.attrib if "}" in key]:
            element.set(f"xlink:{key.rpartition('}')[2]}", element.attrib.pop(key))
    for parent in list(svg.iter()):
        for style in parent.findall("style"):
            parent.remove(style)

    used = {found for e in svg.iter() for v in e.attrib.values() for found in REFERENCE.findall(v)}
    for element in svg.iter():
        own = element.get("id", "")
        if own.startswith(ROW):
            element.set("class", own)
            tip = tips.get(int(own.removeprefix(ROW)))
            if tip is not None:
                title = ElementTree.Element("title")
                title.text = printable(tip)
                element.insert(0, title)
        if own and own not in used:
            del element.attrib["id"]
        elif own:
            element.set("id", f"{name}-{own}")
        for key in ("clip-path", "xlink:href"):
            if key in element.attrib:
                element.set(key, REFERENCE.sub(rf"#{name}-\1", element.attrib[key]))

    box = svg.get("viewBox", "")
    svg.attrib.clear()
    svg.set("viewBox", box)
    svg.attrib.update({"role": "img", "aria-label": printable(label)} if label else HIDDEN)
    text = ElementTree.tostring(svg, encoding="unicode", method="html")
    return Markup(re.sub(r"\s*\n\s*", " ", text))

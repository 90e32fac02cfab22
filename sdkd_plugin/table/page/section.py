"""What the page is made of: sections with notes, pictures and tables."""

from dataclasses import dataclass, field

from markupsafe import Markup

from sdkd_plugin.table.grids import Grid


@dataclass(frozen=True)
class Picture:
    """A drawing, with the words under it; a wide one has no other beside it."""

    drawn: Markup
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Settings:
    """What runs of one config have in common that not all runs have; `anchor` is its id."""

    anchor: str
    title: str
    values: dict[str, str]


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        name: its anchor.
        notes: under the heading: what is shown, and how to get what is not.
        legend: whether its pictures have a line or a point for each method, to be shown or hidden.
        anchors: by grid, for each of its rows an id, to link to.
        links: by grid, for each of its rows the id that its last cell links to.
    """

    name: str
    title: str
    notes: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    settings: list[Settings] = field(default_factory=list)
    legend: bool = False
    anchors: dict[str, list[str]] = field(default_factory=dict)
    links: dict[str, list[str]] = field(default_factory=dict)

"""What every format prints: grids of cells, whatever they hold."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sdkd_plugin.printable import printable

MARKS = {
    "†": "one seed: tells nothing of the spread",
    "‡": "has unfinished runs, which do not count; they are listed below",
    "‖": "has unmeasured runs, whose records lack this metric; they are listed below",
    "§": "its gain compares different seeds than the student row's, or its trainer sets none",
    "¶": "the published run had another schedule or teacher; the differences are listed below",
    "◊": "published of the best epoch on the test images; a difference to it is our best epoch's",
}


@dataclass(frozen=True)
class Cell:
    """One printed cell.

    Args:
        text: as shown.
        value: what a sortable table sorts by and CSV prints; None: `text`.
        best: the best of its column.
        marks: footnote signs, keys of MARKS.
    """

    text: str
    value: float | None = None
    best: bool = False
    marks: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(self.text))

    @property
    def marked(self) -> str:
        return self.text + self.marks


EMPTY = Cell("")


@dataclass(frozen=True)
class Grid:
    """One printed table: a name for ids, a title, column heads, rows of as many cells, and notes
    under it.

    What names in foreign run folders bring along is spelled out here, for every format; what
    steers one format alone that format must escape.
    """

    name: str
    title: str
    head: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", printable(self.title))
        object.__setattr__(self, "head", [printable(name) for name in self.head])
        object.__setattr__(self, "notes", [printable(note) for note in self.notes])

    @property
    def text_columns(self) -> list[int]:
        """Positions of the columns that hold words, not numbers; they are set flush left."""
        return [
            column
            for column in range(len(self.head))
            if all(row[column].value is None for row in self.rows)
        ]


def mark_notes(rows: Sequence[Sequence[Cell]]) -> list[str]:
    """What the footnote signs in these rows mean."""
    used = {mark for row in rows for cell in row for mark in cell.marks}
    return [f"{mark} {text}" for mark, text in MARKS.items() if mark in used]

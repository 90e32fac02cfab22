"""Pictures and tables of the studies: matplotlib without pyplot, and csv."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import write_bytes, write_text
from sdkd_plugin.table import figure as table_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 130  # per inch
EXTRA = "studies"  # brings what studies need


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that size, in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    return table_figure.new_figure(width, height, EXTRA)


def missing(package: str) -> UserError:
    """The error for a package of the extra `studies` that is not installed."""
    return table_figure.missing(package, EXTRA)


def write_figure(path: Path, figure: "Figure") -> None:
    """Writes a figure as PNG, atomically."""
    make_folder(path.parent)
    write_bytes(path, table_figure.as_png(figure, DOTS))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of the same keys as csv, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    make_folder(path.parent)
    write_text(path, text.getvalue())


def make_folder(path: Path) -> None:
    """Makes a folder to write to, if there is none. Raises UserError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {path} cannot be made: {error.strerror}; give --output") from error

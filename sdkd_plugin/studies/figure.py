"""Pictures and tables of the studies: matplotlib without pyplot, and csv."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 130  # per inch


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of that size, in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        # without pyplot, which would choose a backend for the whole process
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def missing(package: str) -> UserError:
    """The error for a package of the extra `studies` that is not installed."""
    return UserError(f"this needs {package}; install it with: pip install 'sdkd-plugin[studies]'")


def write_figure(path: Path, figure: "Figure") -> None:
    """Writes a figure as PNG, atomically. A $ in a name is a $."""
    from matplotlib import rc_context

    picture = io.BytesIO()
    with rc_context({"text.parse_math": False}):
        figure.savefig(picture, format="png", dpi=DOTS)
    make_folder(path.parent)
    write_bytes(path, picture.getvalue())


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

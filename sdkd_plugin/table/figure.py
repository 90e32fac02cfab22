"""Pictures: matplotlib, the one plotting library, without pyplot."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdkd_plugin.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, extra: str = "plots") -> "Figure":
    """An empty figure of that size, in inches.

    Args:
        extra: the one of the package that brings matplotlib to whoever wants this picture.
    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        # without pyplot, which would choose a backend for the whole process
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("matplotlib", extra) from error
    return Figure(figsize=(width, height), layout="constrained")


def missing(package: str, extra: str) -> UserError:
    """The error for a package of an extra that is not installed."""
    return UserError(
        f"a picture needs {package}; install it with: pip install 'sdkd-plugin[{extra}]'"
    )


def as_png(figure: "Figure", dots: int) -> bytes:
    """The figure as a PNG of so many dots per inch."""
    picture = io.BytesIO()
    with plain_text():
        figure.savefig(picture, format="png", dpi=dots)
    return picture.getvalue()


@contextmanager
def plain_text() -> Iterator[None]:
    """A $ in a name is a $, no formula."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):
        yield

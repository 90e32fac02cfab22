"""`methods`: every registered method, from outside too, and whether mdistiller can carry it."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from sdkd_plugin.registry import METHODS, Entry
from sdkd_plugin.upstream.registration import THEIRS, needs_trainer, obstacle

HEAD = ("method", "in mdistiller", "why not")


def show_methods() -> None:
    """Prints a line for each method that distils: its name, how it runs there, or why it cannot."""
    table = Table(*HEAD)
    for row in method_rows():
        table.add_row(*row)
    Console(width=200).print(table)


def method_rows() -> Iterator[tuple[str, str, str]]:
    """The lines of `show_methods`, under HEAD."""
    for entry in METHODS:
        if entry.name != "NONE":
            yield entry.name, _how(entry), obstacle(entry) or ""


def _how(entry: Entry) -> str:
    if obstacle(entry) is not None:
        return "cannot"
    if needs_trainer(entry):
        return "works with our trainer entry, registered by default"
    if entry.name in THEIRS:
        return "works; mdistiller has its own, register([...], replace=True) takes ours"
    return "works, registered by default"

"""What `python tools/table.py` does: build the report, render it, print or write it."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import write_bytes
from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.report import TableOptions, make_report


def make_table(options: TableOptions, style: str = "terminal", output: str | None = None) -> None:
    """Prints a report in one of FORMATS, or writes it to `output`.

    Raises:
        UserError: an unknown format, one that cannot be printed, or anything wrong with the
            options, the runs or `output`.
    """
    render = FORMATS[style].build
    if output is None:
        options = on_screen(options)
    options = replace(options, curves=style == "html")
    rendered = render(make_report(options))
    if output is not None:
        write_output(Path(output), rendered)
    elif isinstance(rendered, bytes):
        raise UserError(f"--format {style} cannot be printed; give --output, such as table.{style}")
    else:
        sys.stdout.write(rendered)


def on_screen(options: TableOptions) -> TableOptions:
    """The options of a report that is printed here: as wide as the terminal and in colour, if it is
    one.
    """
    if not sys.stdout.isatty():
        return options
    return replace(options, width=os.get_terminal_size().columns, colour=True)


def write_output(path: Path, rendered: str | bytes) -> None:
    """Writes the file whole or not at all.

    Raises:
        UserError: the folder does not exist, or `path` is one.
    """
    if path.is_dir():
        fault = "is a folder"
    elif not path.parent.is_dir():
        fault = f"cannot be written: there is no folder {path.parent}"
    else:
        content = rendered.encode() if isinstance(rendered, str) else rendered
        write_bytes(path, content)
        return
    raise UserError(f"--output {path} {fault}; give a file in a folder that exists")

"""Grids as text: terminal, Markdown, LaTeX. CSV is in records.py, HTML in html.py."""

import io
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdkd_plugin.table.grids import Cell, Grid

_WIDE = 1000  # characters; a table in a file or a pipe is never folded
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "†": r"\textsuperscript{\dag}",
    "‡": r"\textsuperscript{\ddag}",
    "§": r"\textsuperscript{\S}",
    "¶": r"\textsuperscript{\P}",
    "◊": r"\textsuperscript{$\diamond$}",
}


def terminal(
    grids: Sequence[Grid], listed: Sequence[str], width: int | None = None, colour: bool = False
) -> str:
    """Boxed tables; the best cell of a column is bold and starred, so that it shows without colours
    as well.

    Args:
        width: characters of the terminal; None: as wide as the tables are.
        colour: write terminal escape codes.
    """
    console = Console(
        file=io.StringIO(), width=width or _WIDE, force_terminal=colour, highlight=False
    )
    for grid in grids:
        console.print(Text(grid.title, style="bold italic"), soft_wrap=True)
        table = Table()
        for number, name in enumerate(grid.head):
            table.add_column(Text(name), justify="left" if number in grid.text_columns else "right")
        for row in grid.rows:
            table.add_row(
                *(Text(_starred(cell), style="bold" if cell.best else "") for cell in row)
            )
        console.print(table)
        if any(cell.best for row in grid.rows for cell in row):
            console.print(Text("* best of its column"), soft_wrap=True)
        for note in grid.notes:
            console.print(Text(note), soft_wrap=True)
        console.print()
    for line in _listing(listed):
        console.print(Text(line), soft_wrap=True)
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def markdown(grids: Sequence[Grid], listed: Sequence[str]) -> str:
    """GitHub's tables; the best cell of a column is bold."""
    parts = []
    for grid in grids:
        sides = [
            ":--" if number in grid.text_columns else "--:" for number in range(len(grid.head))
        ]
        lines = [_pipes(grid.head), _pipes(sides)]
        lines += [
            _pipes([_bold(_marked(cell), cell, "**{}**") for cell in row]) for row in grid.rows
        ]
        parts += [f"### {grid.title}", "\n".join(lines)]
        if grid.notes:
            parts.append("\n".join(f"- {note}" for note in grid.notes))
    if listed:
        parts += ["### Runs that do not count", "\n".join(f"- {line}" for line in listed)]
    return "\n\n".join(parts) + "\n"


def latex(grids: Sequence[Grid], listed: Sequence[str]) -> str:
    """Floats for `\\usepackage{booktabs}`; the best cell of a column is bold, listed runs are
    comments.
    """
    parts = ["% needs \\usepackage{booktabs}"]
    for grid in grids:
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape(grid.title)}}}",
            rf"\label{{tab:{grid.name}}}",
        ]
        sides = "".join(
            "l" if number in grid.text_columns else "r" for number in range(len(grid.head))
        )
        lines += [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", _row(map(_escape, grid.head))]
        lines.append(r"\midrule")
        lines += [
            _row(_bold(_escape(_marked(cell)), cell, r"\textbf{{{}}}") for cell in row)
            for row in grid.rows
        ]
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\footnotesize {_escape(note)}" for note in grid.notes]
        parts.append("\n".join([*lines, r"\end{table}"]))
    parts += [f"% {line}" for line in _listing(listed)]
    return "\n\n".join(parts) + "\n"


TEXT_FORMATS: dict[str, Callable[[Sequence[Grid], Sequence[str]], str]] = {
    "terminal": terminal,
    "md": markdown,
    "latex": latex,
}


def _listing(listed: Sequence[str]) -> list[str]:
    return ["Runs that do not count:", *listed] if listed else []


def _marked(cell: Cell) -> str:
    return cell.text + cell.marks


def _starred(cell: Cell) -> str:
    return _marked(cell) + ("*" if cell.best else "")


def _bold(text: str, cell: Cell, style: str) -> str:
    return style.format(text) if cell.best else text


def _pipes(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _row(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)

"""LaTeX tables in the style of booktabs."""

import re
from collections.abc import Iterable

from sdkd_plugin.registry import FORMATS
from sdkd_plugin.table.grids import Cell, Grid
from sdkd_plugin.table.report import EXCLUDED, Report

ESCAPES = {
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
    "‖": r"\textsuperscript{$\parallel$}",
    "§": r"\textsuperscript{\S}",
    "¶": r"\textsuperscript{\P}",
    "◊": r"\textsuperscript{$\diamond$}",
}

NO_LABEL = re.compile(r"[^0-9A-Za-z_.]+")


@FORMATS.register("latex")
def render(report: Report) -> str:
    """Floats for `\\usepackage{booktabs}`; the best cell of a column is bold, excluded runs are
    comments.
    """
    parts = ["% needs \\usepackage{booktabs}", *map(_float, report.grids)]
    if report.excluded:
        parts.append(f"% {EXCLUDED}:")
    parts += [f"% {run}" for run in report.excluded]
    return "\n\n".join(parts) + "\n"


def _float(grid: Grid) -> str:
    sides = ["l" if number in grid.text_columns else "r" for number in range(len(grid.head))]

    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(grid.title)}}}",
        rf"\label{{tab:{NO_LABEL.sub('-', grid.name)}}}",
        rf"\begin{{tabular}}{{{''.join(sides)}}}",
        r"\toprule",
        _row(map(_escape, grid.head)),
        r"\midrule",
        *(_row(map(_bold, row)) for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize {_escape(note)}" for note in grid.notes),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _row(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


def _bold(cell: Cell) -> str:
    text = _escape(cell.marked)
    return rf"\textbf{{{text}}}" if cell.best else text


def _escape(text: str) -> str:
    escaped = "".join(ESCAPES.get(character, character) for character in text)
    # a row begins after a command that would take these for its own argument
    return f"{{}}{escaped}" if text.startswith(("[", "*")) else escaped

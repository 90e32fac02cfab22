"""Accuracy by class, of the runs that `examine` has looked at."""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from sdkd_plugin.table.cells import Comparison
from sdkd_plugin.table.grids import EMPTY, Cell, Grid
from sdkd_plugin.table.page.curves import COLUMNS
from sdkd_plugin.table.page.looks import PER_CLASS, STUDIES, Reader, number
from sdkd_plugin.table.page.section import Picture, Section
from sdkd_plugin.table.page.style import GREY, look
from sdkd_plugin.table.page.svg import draw_svg, row_gid
from sdkd_plugin.table.published import TEACHER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Accuracies = dict[str, float]  # by class, %


def classes_section(comparison: Comparison, reader: Reader) -> Section:
    """A table of classes by methods and a picture, for each column with examined runs."""
    grids = []
    pictures = []
    for index, column in enumerate(comparison.columns):
        found = class_accuracies(comparison, index, reader)
        if not found:
            continue
        grids.append(_grid(f"classes-{index}", column.label, found))
        if index < COLUMNS:
            label = f"{column.label}: accuracy of each class, from each method's worst to its best"
            drawn = draw_svg(
                f"classes-{index}",
                label,
                partial(_draw, comparison=comparison, found=found),
            )
            pictures.append(
                Picture(drawn, f"{column.label}: classes from each method's worst to its best.")
            )
    notes = ["Means over the runs that were looked at; grey: the teacher."]
    if not grids:
        notes = [f"`examine RUN --only per-class` fills this: it writes RUN/{STUDIES}/{PER_CLASS}"]
    return Section("classes", "Accuracy by class", notes, pictures, grids, legend=bool(pictures))


def class_accuracies(
    comparison: Comparison, index: int, reader: Reader
) -> Mapping[str, Accuracies]:
    """By name of the row, the teacher's first, the mean accuracy of each class."""
    teacher: list[Accuracies] = []
    methods = {}
    for cell in comparison.in_column(index):
        runs = []
        for run in [] if cell is None else cell.finished:
            rows = reader.read(run.path / STUDIES / PER_CLASS, ["student"])
            if rows and "class" in rows[0]:
                runs.append(_column(rows, "student"))
            if rows and "class" in rows[0] and "teacher" in rows[0]:
                teacher.append(_column(rows, "teacher"))
        if cell is not None and runs:
            methods[cell.row] = _means(runs)
    return {**({TEACHER: _means(teacher)} if teacher else {}), **methods}


def _column(rows: Sequence[dict[str, str]], name: str) -> Accuracies:
    values = {row["class"]: number(row, name) for row in rows}
    return {key: value for key, value in values.items() if value is not None}


def _means(runs: Sequence[Accuracies]) -> Accuracies:
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: fmean(run[name] for run in runs if name in run) for name in names}


def _grid(name: str, label: str, found: Mapping[str, Accuracies]) -> Grid:
    classes = dict.fromkeys(each for values in found.values() for each in values)
    rows = [
        [
            Cell(each),
            *(
                Cell(f"{values[each]:.1f}", values[each]) if each in values else EMPTY
                for values in found.values()
            ),
        ]
        for each in classes
    ]
    return Grid(name, f"{label}: accuracy by class (%)", ["class", *found], rows)


def _draw(axes: "Axes", comparison: Comparison, found: Mapping[str, Accuracies]) -> dict[int, str]:
    tips = {}
    for name, values in found.items():
        heights = sorted(values.values())
        if name == TEACHER:
            axes.plot(range(1, len(heights) + 1), heights, color=GREY, linewidth=3, alpha=0.5)
            continue
        row = comparison.rows.index(name)
        style = look(row)
        axes.plot(
            range(1, len(heights) + 1),
            heights,
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            markevery=max(1, len(heights) // 8),
            gid=row_gid(row),
        )
        tips[row] = f"{name}: worst class {heights[0]:.1f} %, best {heights[-1]:.1f} %"
    axes.set(xlabel="classes, worst first", ylabel="accuracy (%)", ylim=(-2, 102))
    axes.grid()
    return tips

"""How sure the students are and how often they are right, and how far they do what their teacher
does.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sdkd_plugin.table.cells import Comparison, TableCell
from sdkd_plugin.table.grids import EMPTY, Cell, Grid
from sdkd_plugin.table.page.curves import COLUMNS
from sdkd_plugin.table.page.looks import CALIBRATION, FIDELITY, STUDIES, Reader, number
from sdkd_plugin.table.page.section import Picture, Section
from sdkd_plugin.table.page.style import GREY, look
from sdkd_plugin.table.page.svg import draw_svg, row_gid
from sdkd_plugin.table.statistics import summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RECORDED = ("ece", "loss")  # metrics of the records that speak of it
MEASURES = {  # columns of FIDELITY that are shown, with their decimals
    "agreement": ("agreement (%)", 2),
    "agreement_teacher_right": ("teacher right (%)", 2),
    "agreement_teacher_wrong": ("teacher wrong (%)", 2),
    "kl": ("KL (nats)", 3),
}

Bins = list[tuple[float, float]]  # confidence and accuracy, %


def calibration_section(comparison: Comparison, reader: Reader) -> Section:
    """What the records say, and reliability diagrams of the runs that were looked at."""
    grids = [grid for grid in (_recorded_grid(comparison),) if grid is not None]
    pictures = []
    for index, column in enumerate(comparison.columns[:COLUMNS]):
        found = reliability(comparison, index, reader)
        if found:
            drawn = draw_svg(
                f"calibration-{index}",
                f"{column.label}: accuracy over confidence, a line for each method",
                partial(_draw, found=found),
            )
            pictures.append(
                Picture(drawn, f"{column.label}: reliability; above the diagonal: too cautious.")
            )
    notes = []
    if not grids:
        notes.append("No record here has ECE or cross entropy; runs of version 0.2 on have both")
    if not pictures:
        notes.append(
            f"`examine RUN --only calibration` adds reliability diagrams: it writes "
            f"RUN/{STUDIES}/{CALIBRATION}"
        )
    legend = bool(pictures)
    return Section("calibration", "Calibration", notes, pictures, grids, legend=legend)


def fidelity_section(comparison: Comparison, reader: Reader) -> Section:
    """How often students say the same as their teacher."""
    rows = []
    for cell in _finished(comparison):
        runs = [
            row
            for run in cell.finished
            for row in reader.read(run.path / STUDIES / FIDELITY, list(MEASURES))[:1]
        ]
        if runs:
            shown = [
                _mean_cell([value for row in runs if (value := number(row, name)) is not None], d)
                for name, (_, d) in MEASURES.items()
            ]
            names = [Cell(cell.column.label), Cell(cell.row), Cell(str(len(runs)), len(runs))]
            rows.append([*names, *shown])

    title = "Agreement with the teacher"
    if not rows:
        told = f"`examine RUN --only fidelity` fills this: it writes RUN/{STUDIES}/{FIDELITY}"
        return Section("fidelity", title, [told])
    head = ["pair", "method", "n", *(label for label, _ in MEASURES.values())]
    notes = [
        "share of images where student and teacher say the same: of all, of those where the "
        "teacher is right, of those where it is wrong; KL(teacher || student) at temperature 1; "
        "mean ± sample standard deviation over the runs that were looked at"
    ]
    return Section("fidelity", title, grids=[Grid("agreement", title, head, rows, notes)])


def reliability(comparison: Comparison, index: int, reader: Reader) -> dict[int, Bins]:
    """By row of the table, the bins of its runs that were looked at, together."""
    found = {}
    for row, cell in enumerate(comparison.in_column(index)):
        totals: dict[str, list[float]] = {}  # by bin: images, and sums of confidence and accuracy
        for run in [] if cell is None else cell.finished:
            for each in reader.read(
                run.path / STUDIES / CALIBRATION, ["low", "images", "confidence", "accuracy"]
            ):
                _add(totals, each)
        bins = [(sure / count, right / count) for count, sure, right in totals.values() if count]
        if bins:
            found[row] = sorted(bins)
    return found


def _add(totals: dict[str, list[float]], row: dict[str, str]) -> None:
    images, sure, right = (number(row, name) for name in ("images", "confidence", "accuracy"))
    if row.get("network") == "student" and images and sure is not None and right is not None:
        total = totals.setdefault(row["low"], [0.0, 0.0, 0.0])
        for place, value in enumerate((images, images * sure, images * right)):
            total[place] += value


def _recorded_grid(comparison: Comparison) -> Grid | None:
    cells = _finished(comparison)
    meanings = {
        name: run.record.metrics[name]
        for cell in cells
        for run in cell.finished
        for name in RECORDED
        if name in run.record.metrics
    }
    if not meanings:
        return None
    rows = []
    lacking = []
    for cell in cells:
        records = [run.record for run in cell.finished if meanings.keys() & run.record.metrics]
        if not records:
            lacking.append(cell.row)
            continue
        shown = []
        for name, meaning in meanings.items():
            values = [record.last[name] for record in records if name in record.metrics]
            shown.append(_mean_cell(values, meaning.decimals))
        count = len(records)
        rows.append([Cell(cell.column.label), Cell(cell.row), Cell(str(count), count), *shown])
    notes = ["lower is better"]
    if lacking:
        names = ", ".join(dict.fromkeys(lacking))
        notes.append(f"left out, since their records are of a version that has neither: {names}")
    units = [f"{m.label} ({m.unit})" if m.unit else m.label for m in meanings.values()]
    title = "What the records say of calibration, last epoch: mean ± sample standard deviation"
    return Grid("recorded", title, ["pair", "method", "n", *units], rows, notes)


def _finished(comparison: Comparison) -> list[TableCell]:
    return [
        cell
        for index in range(len(comparison.columns))
        for cell in comparison.in_column(index)
        if cell is not None and cell.finished
    ]


def _mean_cell(values: Sequence[float], decimals: int) -> Cell:
    if not values:
        return EMPTY
    found = summarize(values)
    spread = "" if found.sd is None else f" ± {found.sd:.{decimals}f}"
    return Cell(f"{found.mean:.{decimals}f}{spread}", found.mean)


def _draw(axes: "Axes", found: Mapping[int, Bins]) -> None:
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1)
    for row, bins in found.items():
        style = look(row)
        axes.plot(
            [sure for sure, _ in bins],
            [right for _, right in bins],
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            gid=row_gid(row),
        )
    axes.set(xlabel="confidence (%)", ylabel="accuracy (%)", xlim=(0, 100), ylim=(0, 100))
    axes.grid()

"""What stands on the page, in which order."""

from statistics import fmean

from sdkd_plugin.table.cells import Comparison
from sdkd_plugin.table.grids import Grid
from sdkd_plugin.table.page.attention import attention_section
from sdkd_plugin.table.page.calibration import calibration_section, fidelity_section
from sdkd_plugin.table.page.classes import classes_section
from sdkd_plugin.table.page.cost import cost_section
from sdkd_plugin.table.page.curves import curves_section
from sdkd_plugin.table.page.looks import Reader
from sdkd_plugin.table.page.pairs import pairs_section
from sdkd_plugin.table.page.ranks import ranks_section
from sdkd_plugin.table.page.runs import runs_section
from sdkd_plugin.table.page.section import Section
from sdkd_plugin.table.published import STUDENT
from sdkd_plugin.table.report import EXCLUDED, Report

OWN = {"versus": "pairs", "ranks": "ranks"}  # grids of a report that have a section of their own
AT_FIRST = 8  # methods whose lines a page shows at first, where there are many more


def all_sections(report: Report) -> list[Section]:
    """The report's tables; with a comparison also its pictures, what studies found, its runs."""
    comparison = report.comparison
    tables = Section("tables", "Results", grids=_grids(report, ""))
    if comparison is None:
        return [tables]

    reader = Reader()
    sections = [
        tables,
        curves_section(comparison),
        cost_section(comparison),
        ranks_section(comparison, _grids(report, "ranks")),
        pairs_section(comparison, _grids(report, "pairs")),
        classes_section(comparison, reader),
        calibration_section(comparison, reader),
        fidelity_section(comparison, reader),
        attention_section(report.options.folders, reader),
    ]
    told = [str(run) for run in report.excluded]
    if told:
        sections.append(Section("excluded", EXCLUDED, told))
    if reader.faults:
        sections.append(Section("faults", "Studies that cannot be read", reader.faults))
    return [*sections, *runs_section(comparison)]


def rows_at_first(report: Report, comparison: Comparison) -> set[str]:
    """The rows whose lines are shown before a reader chooses: all, unless there are more than
    AT_FIRST + 4; then the student, the tested method, and the best by their mean rank.
    """
    if len(comparison.rows) <= AT_FIRST + 4:
        return set(comparison.rows)
    ours = report.versus.ours if report.versus is not None else comparison.rows[-1]
    ranks: dict[str, list[int]] = {}
    for (row, _), cell in comparison.cells.items():
        if cell.rank is not None:
            ranks.setdefault(row, []).append(cell.rank)
    ranked = sorted(ranks, key=lambda row: fmean(ranks[row]))
    return set(list(dict.fromkeys([STUDENT, ours, *ranked]))[:AT_FIRST])


def _grids(report: Report, section: str) -> list[Grid]:
    return [grid for grid in report.grids if OWN.get(grid.name, "") == section]

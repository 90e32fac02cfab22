"""The table of an ablation: the score of each variant that a sweep file names, and its difference
to the first one, paired by seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sdkd_plugin.runs.read import Run
from sdkd_plugin.table.cells import Comparison
from sdkd_plugin.table.grids import EMPTY, Cell, Grid, mark_notes
from sdkd_plugin.table.means import column_cells, protocol_notes
from sdkd_plugin.table.published import TEACHER
from sdkd_plugin.table.rows import kind_of
from sdkd_plugin.table.versus import TEST_HEAD, Versus, paired_cells, versus_notes

HEAD = ["pair", "variant"]  # then the metric, and TEST_HEAD


@dataclass(frozen=True)
class Variant:
    """What a sweep file calls the runs of one method, pair and setting.

    Args:
        label: the row's name.
        kind: `kind_of` its runs.
    """

    label: str
    method: str
    kind: str


def variant_labels(variants: Sequence[Variant]) -> dict[str, str]:
    """Label by kind in the file's order; of two variants that are the same runs the first."""
    labels: dict[str, str] = {}
    for variant in variants:
        labels.setdefault(variant.kind, variant.label)
    return labels


def without_others(
    runs: Sequence[Run], variants: Sequence[Variant]
) -> tuple[list[Run], dict[str, int]]:
    """The runs of the variants, and all runs of methods that are not varied; and how many of each
    varied method are left out, since they are of none.
    """
    kinds = {variant.kind for variant in variants}
    varied = {variant.method for variant in variants}
    kept = []
    left_out: dict[str, int] = {}
    for run in runs:
        if run.method in varied and kind_of(run) not in kinds:
            left_out[run.method] = left_out.get(run.method, 0) + 1
        else:
            kept.append(run)
    return kept, left_out


def ablation_grid(comparison: Comparison, versus: Versus, left_out: dict[str, int]) -> Grid:
    """A line for each variant, and for each other method of the same column: mean ± sd (n), and its
    difference to the row of `versus`, paired by seed.

    Args:
        left_out: how many runs of each method are of no variant.
    """
    metric = comparison.metric
    tests = {(test.cell.row, test.cell.column.label): test for test in versus.tests}
    rows = []
    for index, column in enumerate(comparison.columns):
        score = comparison.teacher_score(index)
        untested = [EMPTY] * len(TEST_HEAD)
        if score is not None:
            own = Cell(metric.show(score), score)
            rows.append([Cell(column.label), Cell(TEACHER), own, *untested])
        for name, cell in zip(
            comparison.rows, column_cells(comparison, index, "last"), strict=True
        ):
            if cell is EMPTY:
                continue
            test = tests.get((name, column.label))
            beside = untested
            if test is not None:
                turned = replace(test, paired=test.paired.turned)
                beside = paired_cells(turned, metric)
            rows.append([Cell(column.label), Cell(name), cell, *beside])

    several = len(comparison.columns) > 1
    head = [*HEAD, metric.label, *TEST_HEAD]
    notes = [*protocol_notes(comparison), *versus_notes(versus), *mark_notes(rows)]
    notes += [
        f"{count} runs of {method} are of no variant and left out"
        for method, count in sorted(left_out.items())
    ]
    what = f"{metric.title} on the {comparison.images} images, last epoch"
    title = f"{what}: mean ± sample standard deviation (seeds); difference to {versus.ours}"
    shown = slice(0 if several else 1, None)
    return Grid("ablation", title, head[shown], [row[shown] for row in rows], notes)

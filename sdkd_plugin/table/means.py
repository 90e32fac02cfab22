"""The main grid: methods by pairs, mean and spread of one metric."""

from collections import defaultdict

from sdkd_plugin.runs.imported import code_of
from sdkd_plugin.table.cells import Comparison, TableCell
from sdkd_plugin.table.grids import EMPTY, Cell, Grid, mark_notes
from sdkd_plugin.table.published import TEACHER

# Protocol keys named above a table; where columns differ in any other key, that is named as well.
NAMED = (
    "DATASET.TYPE",
    "DATASET.SUBSET",
    "DATASET.VAL_FRACTION",
    "DATASET.IMAGE_SIZE",
    "DATASET.AUGMENT",
    "SOLVER.EPOCHS",
    "SOLVER.SCHEDULE_EPOCHS",
    "SOLVER.BATCH_SIZE",
    "SOLVER.LR",
    "SOLVER.LR_DECAY_STAGES",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.PRECISION",
    "data",
)


def main_grid(comparison: Comparison, best_epoch: bool) -> Grid:
    """Methods by pairs: last epoch, mean ± sample sd (n); with `best_epoch` the best epoch on the
    evaluated images beside it.
    """
    metric = comparison.metric
    head = ["method"]
    rows = [[Cell(TEACHER)], *([Cell(row)] for row in comparison.rows)]
    for index in range(len(comparison.columns)):
        for statistic in ("last", "best") if best_epoch else ("last",):
            head.append(_head(comparison, index, statistic))
            score = comparison.teacher_score(index) if statistic == "last" else None
            rows[0].append(EMPTY if score is None else Cell(metric.show(score), score))
            cells = column_cells(comparison, index, statistic)
            for row, cell in zip(rows[1:], cells, strict=True):
                row.append(cell)

    what = f"{metric.title} on the {comparison.images} images, last epoch"
    title = f"{what}: mean ± sample standard deviation (seeds)"
    notes = [*protocol_notes(comparison), *metric.notes, *mark_notes(rows)]
    return Grid("accuracy" if metric.headline else metric.name, title, head, rows, notes)


def column_cells(comparison: Comparison, index: int, statistic: str) -> list[Cell]:
    """A column's printed cells, one for each row. statistic: last | best."""
    cells = comparison.in_column(index)
    means = [cell.summary(statistic).mean for cell in cells if cell and cell.finished]

    printed = []
    for cell in cells:
        if cell is None:
            printed.append(EMPTY)
        elif not cell.finished:
            state = "unfinished" if cell.unfinished else "unmeasured"
            printed.append(Cell(state, marks=_marks(cell)))
        else:
            summary = cell.summary(statistic)
            spread = "" if summary.sd is None else f" ± {cell.metric.show(summary.sd)}"
            text = f"{cell.metric.show(summary.mean)}{spread} ({summary.n})"
            best = summary.mean == cell.metric.best(means)
            printed.append(Cell(text, summary.mean, best, _marks(cell)))
    return printed


def _head(comparison: Comparison, index: int, statistic: str) -> str:
    column = comparison.columns[index]
    if statistic == "last":
        return column.label
    images = "val" if column.protocol["DATASET.VAL_FRACTION"] > 0 else "test"
    # the record holds every metric of one best epoch, and top-1 chooses it
    by = "" if comparison.metric.headline else " by top-1"
    return f"{column.label} best {images} epoch{by}"


def _marks(cell: TableCell) -> str:
    one = "†" if len(cell.finished) == 1 else ""
    return one + ("‡" if cell.unfinished else "") + ("‖" if cell.unmeasured else "")


def protocol_notes(comparison: Comparison) -> list[str]:
    """What all runs have in common, and what tells the lettered columns apart."""
    shown = [f"{key} {comparison.shared[key]}" for key in NAMED if key in comparison.shared]
    notes = [f"all runs: {', '.join(shown)}"]
    for letter, own in comparison.differing.items():
        notes.append(f"[{letter}] {', '.join(f'{key} {value}' for key, value in own.items())}")

    foreign = [column.label for column in comparison.columns if not column.seeded]
    if foreign:
        notes.append(
            f"{', '.join(foreign)}: trained by mdistiller, which sets no seed, logs two decimals "
            f"and records no setting but those shown here"
        )
    return notes + _code_notes(comparison)


def _code_notes(comparison: Comparison) -> list[str]:
    """Says so where a module from outside was not the same in all runs: which was in which row."""
    rows: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for cell in comparison.cells.values():
        for run in cell.finished:
            for module, digest in code_of(run.record.environment):
                rows[module][digest].add(cell.row)

    notes = []
    for module, held in sorted(rows.items()):
        if len(held) > 1:
            each = [f"{digest} in {' and '.join(sorted(own))}" for digest, own in held.items()]
            notes.append(f"imported code differs between runs: {module} {', '.join(sorted(each))}")
    return notes

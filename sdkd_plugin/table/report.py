"""Everything that a format can show, built in one place from one set of options."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from sdkd_plugin.errors import UserError
from sdkd_plugin.printable import printable
from sdkd_plugin.runs.find import Rejected
from sdkd_plugin.runs.read import Run, read_runs
from sdkd_plugin.runs.record import HEADLINE
from sdkd_plugin.table.ablation import (
    Variant,
    ablation_grid,
    variant_labels,
    without_others,
)
from sdkd_plugin.table.cells import Comparison, compare_runs
from sdkd_plugin.table.details import details_grid
from sdkd_plugin.table.grids import Grid
from sdkd_plugin.table.means import main_grid
from sdkd_plugin.table.published import (
    Published,
    load_published,
    published_grid,
    published_table,
)
from sdkd_plugin.table.ranks import Ranks, rank_columns, ranks_grid
from sdkd_plugin.table.versus import Versus, run_versus, versus_grid

STATUSES = ("invalid", "unfinished", "unmeasured", "duplicate", "teacher")
EXCLUDED = "Runs that do not count"  # the heading over them, in every format


@dataclass(frozen=True)
class TableOptions:
    """What a table is of and how it is shown.

    Args:
        folders: searched recursively; with neither these nor `upstream` the published table alone.
        upstream: runs of mdistiller's trainer, each as PATH:METHOD:TEACHER/STUDENT:SEED.
        metric: the name of a metric in the runs' records.
        versus: the method to test against every other, paired by seed.
        best_epoch: show the best epoch beside the last.
        published: which published table; None: with runs any that has the number, the poster first.
        ranks: the published table whose order of methods ours is compared with.
        split: method settings whose values get rows of their own, KEY or KEY=VALUE each.
        variants: of a sweep file, whose runs get rows of these names; the table is an ablation's
            then, and `versus` is the first of them unless it is given.
        title: over a picture; "": what it shows.
        width: characters of the terminal; None: as wide as the tables are.
        colour: write the terminal's escape codes.
        curves: read the scores of every epoch, which only a page's pictures show.
        processes: that read, as of `read_runs`.
    """

    folders: tuple[str | Path, ...] = ()
    upstream: tuple[str, ...] = ()
    metric: str = HEADLINE
    versus: str | None = None
    best_epoch: bool = False
    published: str | None = None
    ranks: str | None = None
    split: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    title: str = ""
    width: int | None = None
    colour: bool = False
    curves: bool = False
    processes: int = 1


@dataclass(frozen=True)
class Excluded:
    """A folder that was found and does not count. status: one of STATUSES."""

    status: str
    path: Path
    reason: str

    @property
    def sentence(self) -> str:
        """The path and the reason in one."""
        joint = " " if self.status == "duplicate" else ": "
        return printable(f"{self.path}{joint}{self.reason}")

    def __str__(self) -> str:
        return f"{self.status}: {self.sentence}"


@dataclass(frozen=True)
class Report:
    """What a format renders.

    Args:
        grids: the tables in the order they are printed.
        excluded: every folder that was found and does not count: nothing is dropped in silence.
        published: the numbers that may stand beside ours, or the published table alone.
        comparison: the runs in their cells; None for a published table alone.
        versus: the paired tests, where they are asked for.
        ranks: both orders of the methods, by pair, where they are asked for.
    """

    options: TableOptions
    grids: tuple[Grid, ...]
    excluded: tuple[Excluded, ...] = ()
    published: tuple[Published, ...] = ()
    comparison: Comparison | None = None
    versus: Versus | None = None
    ranks: tuple[Ranks, ...] = ()


def make_report(options: TableOptions) -> Report:
    """Reads the runs and builds their report, or the published table's.

    Raises:
        UserError: neither runs nor a published table, or anything wrong with them.
    """
    if not options.folders and not options.upstream:
        return _published_report(options)

    published = _numbers(options)
    runs, rejected = _read(options)
    runs, left_out = without_others(runs, options.variants)
    labels = variant_labels(options.variants)
    comparison = compare_runs(runs, rejected, options.split, options.metric, labels)
    against = options.versus or _first(labels.values(), comparison)
    versus = None if against is None else run_versus(comparison, against)
    grids = [main_grid(comparison, options.best_epoch), details_grid(comparison, published)]
    if versus is not None and labels:
        grids = [ablation_grid(comparison, versus, left_out)]
    elif versus is not None:
        grids.append(versus_grid(versus))
    ranks = _ranks(options, comparison)
    if options.ranks is not None:
        grids.append(ranks_grid(ranks, options.ranks))
    return Report(
        options=options,
        grids=tuple(grids),
        excluded=tuple(excluded_runs(comparison)),
        published=published,
        comparison=comparison,
        versus=versus,
        ranks=tuple(ranks),
    )


def _first(labels: Collection[str], comparison: Comparison) -> str | None:
    """The first variant that there are runs of; None where no variants are asked for.

    Raises:
        UserError: there are none.
    """
    found = next((label for label in labels if label in comparison.rows), None)
    if labels and found is None:
        raise UserError("no run here is of one of the variants of --variants")
    return found


def excluded_runs(comparison: Comparison) -> Iterable[Excluded]:
    """Every folder of a comparison that does not count, by status and then by path."""
    metric = comparison.metric
    for bad in comparison.rejected:
        yield Excluded("invalid", bad.path, bad.reason)

    for run in comparison.counted:
        if run.result is None:
            yield Excluded("unfinished", run.path, f"{run.progress}; go on with --resume")
    for run in comparison.counted:
        if run.result is not None and not metric.measured(run):
            recorded = ", ".join(sorted(run.result.metrics))
            reason = f"its record has no {metric.name}; it has {recorded}"
            yield Excluded("unmeasured", run.path, reason)

    for run, kept in comparison.duplicates:
        scores = [_state(comparison, each, "unfinished") for each in (run, kept)]
        reason = f"({scores[0]}) is the same run as {kept.path} ({scores[1]}), which counts"
        yield Excluded("duplicate", run.path, reason)
    for run in comparison.teachers:
        state = _state(comparison, run, f"unfinished, {run.progress}")
        label = f"{metric.label} " if metric.measured(run) else ""
        reason = f"vanilla {run.student}, {label}{state}; no column learns with it as student"
        yield Excluded("teacher", run.path, reason)


def _state(comparison: Comparison, run: Run, unfinished: str) -> str:
    metric = comparison.metric
    if run.result is None:
        return unfinished
    return metric.show(run.result.last[metric.name]) if metric.measured(run) else metric.absent


def _published_report(options: TableOptions) -> Report:
    if options.published is None:
        raise UserError(
            "nothing to tabulate: give folders that hold runs, or --published poster for the "
            "paper's own table"
        )
    needs_runs = {
        "--versus": options.versus,
        "--best": options.best_epoch,
        "--split": options.split,
        "--variants": options.variants,
        "--metric": options.metric != HEADLINE,
        "--ranks": options.ranks,
    }
    for name, given in needs_runs.items():
        if given:
            raise UserError(
                f"{name} needs runs; a published table has one number per cell: give folders "
                f"that hold runs"
            )

    rows = tuple(published_table(options.published))
    return Report(options, grids=(published_grid(rows),), published=rows)


def _ranks(options: TableOptions, comparison: Comparison) -> list[Ranks]:
    if options.ranks is None:
        return []
    if options.metric != HEADLINE:
        raise UserError(
            f"--ranks {options.ranks} orders by {HEADLINE}, which was published, not by "
            f"{options.metric}: leave one of --ranks and --metric out"
        )
    return rank_columns(comparison, published_table(options.ranks, "--ranks"))


def _numbers(options: TableOptions) -> tuple[Published, ...]:
    """The published numbers, which are all top-1 accuracies."""
    if options.metric == HEADLINE:
        named = options.published
        return tuple(load_published() if named is None else published_table(named))
    if options.published is not None:
        raise UserError(
            f"--published {options.published} has no {options.metric}, only {HEADLINE}: leave "
            f"one of --published and --metric out"
        )
    return ()


def _read(options: TableOptions) -> tuple[list[Run], list[Rejected]]:
    runs, rejected = read_runs(options.folders, options.curves, options.processes)
    if options.upstream:
        # brings torch, which a table of our own runs does not need
        from sdkd_plugin.runs.mdistiller import read_upstream

        theirs = [read_upstream(named) for named in options.upstream]
        runs += [run for run in theirs if isinstance(run, Run)]
        named = {run.path.resolve() for run in theirs}
        rejected = [bad for bad in rejected if bad.path.resolve() not in named]
        rejected += [bad for bad in theirs if isinstance(bad, Rejected)]
    return runs, rejected

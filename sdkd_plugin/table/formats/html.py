"""The comparison as one page that needs nothing but itself: no script, style, font or picture from
elsewhere.
"""

import time
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sdkd_plugin.registry import FORMATS
from sdkd_plugin.runs.read import Run
from sdkd_plugin.runs.record import Result
from sdkd_plugin.table.cells import Comparison, row_name
from sdkd_plugin.table.formats.charts import colour, learning_curves, metric_against_cost
from sdkd_plugin.table.metric import ShownMetric
from sdkd_plugin.table.report import EXCLUDED, Report


@FORMATS.register("html")
def render(report: Report) -> str:
    """The report's tables; with a comparison also its curves, its costs, the folders that do not
    count and every run's config.
    """
    pages = Environment(
        loader=PackageLoader("sdkd_plugin.table.formats", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )

    comparison = report.comparison
    pictures = None if comparison is None else _pictures(comparison)
    runs = [] if comparison is None else _runs(comparison, report.options.split)
    return pages.get_template("table.html.j2").render(
        grids=report.grids,
        heading=EXCLUDED,
        excluded=report.excluded,
        pictures=pictures,
        runs=runs,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def _pictures(comparison: Comparison) -> dict[str, Any]:
    metric = comparison.metric
    what = metric.meaning.title
    axis = f"axis of {metric.label}"
    if metric.headline:  # said in words that everybody uses of it
        what = "accuracy"
        axis = "axis of accuracies"

    better = "down" if metric.lower_is_better else "up"
    return {
        "title": f"Learning curves, and {what} against cost",
        "legend": [(row, colour(style)) for style, row in enumerate(comparison.rows)],
        "curves": f"Each line is one run; the {axis} need not start at 0.",
        "cost": (
            f"Mean over seeds, bar: standard deviation; {better} and left is better. "
            f"The {axis} need not start at 0."
        ),
        "columns": [
            (
                column.label,
                learning_curves(comparison, index),
                metric_against_cost(comparison, index),
            )
            for index, column in enumerate(comparison.columns)
        ],
    }


def _runs(comparison: Comparison, split: Sequence[str]) -> list[dict[str, Any]]:
    return [_described(run, comparison.metric, split) for run in comparison.counted]


def _described(run: Run, metric: ShownMetric, split: Sequence[str]) -> dict[str, Any]:
    state = metric.absent
    if run.result is None:
        state = f"unfinished, {run.progress}"
    elif metric.measured(run):
        state = f"{metric.label} {metric.show(run.result.last[metric.name])}"

    row = row_name(run, split)
    pair = f"{run.teacher or '-'}/{run.student}"
    # another host's record has no environment
    recorded = run.result is not None and run.result.environment
    return {
        "title": f"{row}, {pair}, seed {run.seed}: {state}",
        "path": str(run.path),
        "config": sorted(run.identity.items()),
        "facts": _facts(run.record, metric) if recorded else {},
    }


def _facts(result: Result, metric: ShownMetric) -> dict[str, Any]:
    environment = result.environment
    best = metric.absent
    if metric.name in result.metrics:
        best = f"{metric.show(result.best[metric.name])} at epoch {result.best_epoch}"
    versions = environment.get("versions", {}).items()

    return {
        "best": best,
        "commit": environment.get("commit"),
        "uncommitted changes": environment.get("uncommitted_changes"),
        "device": environment.get("device"),
        "threads": environment.get("threads"),
        "versions": ", ".join(f"{name} {number}" for name, number in versions),
        "command": " ".join(environment.get("command", ())),
        "finished": result.finished,
        "images per second": f"{result.images_per_second:.0f}",
        "parameters that training adds": result.extra_parameters,
    }

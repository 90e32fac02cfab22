"""The comparison as one page that needs nothing but itself: no script, style, font or picture from
elsewhere.
"""

import time
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from sdkd_plugin.runs.read import Run
from sdkd_plugin.table.cells import Comparison, row_name
from sdkd_plugin.table.formats.charts import accuracy_against_cost, colour, learning_curves
from sdkd_plugin.table.grids import Grid, listed_runs


def html_page(
    grids: Sequence[Grid], comparison: Comparison | None, split: Sequence[str] = ()
) -> str:
    """The page of `grids`; with a comparison also its curves, its costs, the folders that do not
    count and every run's config.
    """
    pages = Environment(
        loader=PackageLoader("sdkd_plugin.table.formats", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    figures, runs, listed = [], [], []
    if comparison is not None:
        figures = [
            (
                column.label,
                learning_curves(comparison, index),
                accuracy_against_cost(comparison, index),
            )
            for index, column in enumerate(comparison.columns)
        ]
        runs = [_described(run, split) for run in comparison.counted]
        listed = listed_runs(comparison)
    return pages.get_template("table.html.j2").render(
        grids=grids,
        figures=figures,
        methods=[(row, colour(style)) for style, row in enumerate(comparison.rows)]
        if comparison
        else [],
        runs=runs,
        listed=listed,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def _described(run: Run, split: Sequence[str]) -> dict:
    pair = f"{run.teacher or '-'}/{run.student}"
    state = f"top-1 {run.result.last['top1']:.2f}" if run.result else f"unfinished, {run.progress}"
    facts = {}
    if run.result and run.result.environment:
        environment = run.result.environment
        facts = {
            "best": f"{run.result.best['top1']:.2f} at epoch {run.result.best_epoch}",
            "commit": environment.get("commit"),
            "uncommitted changes": environment.get("uncommitted_changes"),
            "device": environment.get("device"),
            "threads": environment.get("threads"),
            "versions": ", ".join(
                f"{name} {number}" for name, number in environment.get("versions", {}).items()
            ),
            "command": " ".join(environment.get("command", ())),
            "finished": run.result.finished,
            "images per second": f"{run.result.images_per_second:.0f}",
            "parameters that training adds": run.result.extra_parameters,
        }
    return {
        "title": f"{row_name(run, split)}, {pair}, seed {run.seed}: {state}",
        "path": str(run.path),
        "config": sorted(run.identity.items()),
        "facts": facts,
    }

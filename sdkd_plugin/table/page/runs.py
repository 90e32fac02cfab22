"""Every run in a line of its own, and what its config has that others have not."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdkd_plugin.runs.imported import code_of
from sdkd_plugin.runs.read import Run
from sdkd_plugin.table.cells import Comparison
from sdkd_plugin.table.columns import as_text
from sdkd_plugin.table.grids import EMPTY, Cell, Grid
from sdkd_plugin.table.metric import ShownMetric
from sdkd_plugin.table.page.section import Section, Settings

SEED = "SOLVER.SEED"
NO_SLUG = re.compile(r"[^a-z0-9]+")


def runs_section(comparison: Comparison) -> list[Section]:
    """The list of runs, and the settings of their configs."""
    named = {run.path: row for (row, _), cell in comparison.cells.items() for run in cell.runs}
    order = {name: place for place, name in enumerate(comparison.rows)}
    runs = sorted(
        comparison.counted, key=lambda run: (order[named[run.path]], _pair(run), run.seed)
    )
    facts = [_facts(run) for run in runs]
    common_facts = _common([each for each in facts if each])
    common = _common([_settings(run) for run in runs])
    groups = _groups(runs)

    differing = [key for key in _keys(facts) if key not in common_facts]
    rows = [
        [
            *_line(run, comparison.metric, named),
            *(_fact_cell(own.get(key, "")) for key in differing),
            Cell(str(run.path)),
            Cell("settings"),
        ]
        for run, own in zip(runs, facts, strict=True)
    ]
    head = ["pair", "method", "seed", comparison.metric.label, "best epoch", "hours"]
    head += [*differing, "folder", "settings"]
    title = "Every run that counts or may count, with what is not the same in all of them"
    notes = [f"in all of them: {key} {value}" for key, value in common_facts.items()]
    grid = Grid("run-list", title, head, rows, notes)
    listed = Section(
        "runs",
        "Runs",
        ["The # of a line is a link to that run"],
        grids=[grid],
        anchors={grid.name: [run_anchor(run) for run in runs]},
        links={grid.name: [config_anchor(run) for run in runs]},
    )
    return [listed, _configs(groups, common, named)]


def run_anchor(run: Run) -> str:
    """An id that stays the same wherever the run lies and whatever stands beside it."""
    words = f"{run.method} {_pair(run)} seed{run.seed}"
    slug = NO_SLUG.sub("-", words.lower()).strip("-")
    return f"run-{slug[:60]}-{_digest(dict(run.identity))}"


def config_anchor(run: Run) -> str:
    """The id of the settings that a run shares with those of other seeds."""
    return f"config-{_digest(_settings(run))}"


def _configs(
    groups: Mapping[str, list[Run]], common: dict[str, str], named: Mapping[Path, str]
) -> Section:
    shared = Settings("config-common", "In every run", common)
    own = []
    for anchor, runs in groups.items():
        seeds = ", ".join(str(run.seed) for run in runs)
        title = f"{_name(runs[0], named)}: {'seeds' if len(runs) > 1 else 'seed'} {seeds}"
        settings = _settings(runs[0])
        values = {key: value for key, value in settings.items() if key not in common}
        own.append(Settings(anchor, title, values))
    notes = ["Under each config stand the settings that not all runs have"]
    return Section("configs", "Settings", notes, settings=[shared, *own])


def _line(run: Run, metric: ShownMetric, named: Mapping[Path, str]) -> list[Cell]:
    score, best = Cell(metric.absent), EMPTY
    if run.result is None:
        score = Cell(f"unfinished, {run.progress}")
    elif metric.measured(run):
        last = run.result.last[metric.name]
        score = Cell(metric.show(last), last)
        value = run.result.best[metric.name]
        best = Cell(f"{metric.show(value)} at epoch {run.result.best_epoch}", value)
    seconds = None if run.result is None else run.result.wall_seconds
    return [
        Cell(_pair(run)),
        Cell(named[run.path]),
        Cell(str(run.seed), run.seed),
        score,
        best,
        EMPTY if seconds is None else Cell(f"{seconds / 3600:.3g}", seconds),
    ]


def _fact_cell(text: str) -> Cell:
    return Cell(text, float(text)) if text.isdecimal() else Cell(text)


def _facts(run: Run) -> dict[str, str]:
    """What a finished run's record says of how it was made; another host's says nothing."""
    result = run.result
    if result is None or not result.environment:
        return {}
    environment = result.environment
    versions = environment.get("versions", {}).items()
    rate = result.images_per_second
    found = {
        "commit": environment.get("commit"),
        "uncommitted changes": environment.get("uncommitted_changes"),
        "device": environment.get("device"),
        "threads": environment.get("threads"),
        "versions": ", ".join(f"{name} {number}" for name, number in versions),
        "images per second": None if rate is None else f"{rate:.0f}",
        "trained together": result.group_size,
        "parameters that training adds": result.extra_parameters,
        "finished": result.finished,
        "command": " ".join(environment.get("command", ())),
    }
    code = code_of(environment)
    if code:
        found["imported code"] = ", ".join(map(" ".join, code))
    return {key: str(value) for key, value in found.items()}


def _settings(run: Run) -> dict[str, str]:
    """The identity but for the seed, as text."""
    return {key: str(value) for key, value in sorted(run.identity.items()) if key != SEED}


def _common(each: Sequence[dict[str, str]]) -> dict[str, str]:
    """What is in all of them, with the same value."""
    if not each:
        return {}
    first, *others = each
    return {
        key: value
        for key, value in first.items()
        if all(other.get(key) == value for other in others)
    }


def _keys(facts: Sequence[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for own in facts for key in own))


def _groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(config_anchor(run), []).append(run)
    return groups


def _name(run: Run, named: Mapping[Path, str]) -> str:
    return f"{named[run.path]}, {_pair(run)}"


def _pair(run: Run) -> str:
    return f"{run.teacher or '-'}/{run.student}"


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(as_text(values).encode()).hexdigest()[:10]

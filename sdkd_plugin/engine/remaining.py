"""How long what goes on still takes, and how that is said."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tqdm import tqdm

from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.engine.running import RunningEpoch

RECENT = 5  # epochs of a phase by which its pace is judged


def seconds_left(
    history: Sequence[Mapping[str, Any]], schedule: Sequence[tuple[Phase, int]]
) -> float | None:
    """What the epochs that are not trained yet will take, by the latest ones of their phase; a
    phase that has not begun counts as the one that goes on. None before the first epoch has ended.

    Args:
        history: the rows of the epochs that are trained.
        schedule: all of the run, in order.
    """
    if not history:
        return None
    paces: dict[str, float] = {}
    for name in {row["phase"] for row in history}:
        rows = [row for row in history if row["phase"] == name][-RECENT:]
        paces[name] = fmean(row["train_seconds"] + row.get("test_seconds", 0.0) for row in rows)
    running = paces[history[-1]["phase"]]
    return sum(paces.get(phase.name, running) for phase, _ in schedule[len(history) :])


def in_words(seconds: float) -> str:
    """A duration as people say it: "about 3.2 h left"."""
    if seconds >= 3600:
        return f"about {seconds / 3600:.1f} h left"
    if seconds >= 90:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds:.0f} s left"


def show_pace(bar: tqdm, running: RunningEpoch, schedule: Sequence[tuple[Phase, int]]) -> None:
    """Shows what an epoch's steps give so far, and how long the whole run's steps still take at
    their pace.
    """
    epochs = len(schedule) - schedule.index((running.phase, running.epoch))  # with this one
    steps = epochs * (bar.total or 0) - bar.n
    left = in_words(steps / (bar.format_dict["rate"] or 1.0))
    bar.set_postfix(running.means("train_loss", "train_top1"), run=left)

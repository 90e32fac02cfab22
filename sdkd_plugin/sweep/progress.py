"""What a sweep says while it runs: what ended how, and about how long the rest takes."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean

from tqdm import tqdm

from sdkd_plugin.engine.remaining import in_words
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.metrics import read_metrics
from sdkd_plugin.sweep.execute import Outcomes, Tick
from sdkd_plugin.sweep.jobs import Job, folder_of

REFRESH = 10.0  # seconds between looks at the runs' epochs
REPORT = 600.0  # seconds between lines where no terminal shows the bar


@dataclass(frozen=True)
class KindCost:
    """What each run of a kind costs, estimated.

    Args:
        hours: of all its epochs.
        epochs: of all phases.
    """

    hours: float
    epochs: int


def count_epochs(job: Job) -> int:
    """The complete epochs of a job's run, phases counted through; 0 while it has no folder."""
    try:
        return read_metrics(folder_of(job).path).epochs
    except UserError:
        return 0


class Remaining:
    """How long a sweep still takes.

    The hours of all epochs by their estimates, which the epochs that were trained since correct by
    one common factor; divided by the runs at a time, less the time gone. Runs in lockstep end
    together, so that epochs tell for hours what no ended run does.

    Args:
        costs: of each kind of run; a kind that is missing counts as the others' mean.
        jobs: every run that is to be made.
        workers: runs at a time.
        count: a job's complete epochs.
    """

    def __init__(
        self,
        costs: Mapping[str, KindCost],
        jobs: Iterable[Job],
        workers: int,
        count: Callable[[Job], int] = count_epochs,
    ):
        self._costs = costs
        self._mean = fmean(cost.hours for cost in costs.values()) if costs else 0.0
        self._count = count
        self.workers = workers
        # what earlier sweeps have trained of each: this one's pace is not theirs
        self._before = {job: self._share(job) for job in jobs}
        self._hours_to_do = sum(
            self._hours(job) * (1 - share) for job, share in self._before.items()
        )
        self._ended = 0.0  # hours, as estimated, of runs that have ended
        self._running = 0.0  # and of the epochs of those that have not
        self._began = self._changed = time.monotonic()

    def ended(self, job: Job) -> None:
        """Takes a run off what is left."""
        self._ended += self._hours(job) * (1 - self._before.pop(job))
        self.look()
        self._changed = time.monotonic()

    def look(self) -> None:
        """Counts the epochs that the runs have completed."""
        running = sum(
            self._hours(job) * max(0.0, self._share(job) - share)
            for job, share in self._before.items()
        )
        if running != self._running:
            self._running = running
            self._changed = time.monotonic()

    @property
    def percent(self) -> float:
        """How much is done of what this sweep has to do."""
        return 100 * (self._ended + self._running) / (self._hours_to_do or 1.0)

    def __str__(self) -> str:
        if not self._hours_to_do:
            return "time left unknown"
        done = self._ended + self._running
        pace = 1.0  # hours on the clock for an estimated hour
        if done:
            pace = (self._changed - self._began) / 3600 * self.workers / done
        since = (time.monotonic() - self._changed) / 3600
        hours = max(0.0, (self._hours_to_do - done) * pace / self.workers - since)
        return f"{self.percent:.0f} % trained, {in_words(3600 * hours)}"

    def _hours(self, job: Job) -> float:
        return self._costs[job.kind].hours if job.kind in self._costs else self._mean

    def _share(self, job: Job) -> float:
        """How much of a run is trained; 0 where nobody knows how much it is."""
        if job.kind not in self._costs:
            return 0.0
        return min(1.0, self._count(job) / self._costs[job.kind].epochs)


def run_all(
    phases: Iterable[list[Job]],
    execute: Callable[[list[Job], Tick], Outcomes],
    remaining: Remaining,
) -> list[tuple[Job, str]]:
    """Runs the phases one after the other with one overall progress bar; returns what failed, with
    the reason.
    """
    phases = list(phases)
    failures = []
    with tqdm(total=sum(map(len, phases)), desc="sweep", unit="run") as bar:
        shown = sys.stderr.isatty()
        renewed = time.monotonic()

        def tick() -> None:
            nonlocal renewed
            if time.monotonic() - renewed < (REFRESH if shown else REPORT):
                return
            renewed = time.monotonic()
            remaining.look()
            bar.set_postfix_str(str(remaining), refresh=shown)
            if not shown:
                tqdm.write(f"{bar.n} of {bar.total} runs have ended, {remaining}")

        bar.set_postfix_str(str(remaining))
        for jobs in filter(None, phases):
            # closed at once when this is interrupted, so that the runs are stopped first
            with closing(execute(jobs, tick)) as outcomes:
                for job, error in outcomes:
                    remaining.ended(job)
                    bar.update()
                    bar.set_postfix_str(str(remaining), refresh=False)
                    if error:
                        failures.append((job, error))
                    said = f"failed: {job.label}: {error}" if error else f"done: {job.label}"
                    tqdm.write(f"{said} ({bar.n} of {bar.total}, {remaining})")
    return failures

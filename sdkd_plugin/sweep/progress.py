"""What a sweep says while it runs: what ended how, and about how long the rest takes."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing

from tqdm import tqdm

from sdkd_plugin.sweep.execute import Outcomes, Tick
from sdkd_plugin.sweep.jobs import Job

REFRESH = 10.0  # seconds between renewals of the bar on a terminal


class Remaining:
    """How long a sweep still takes.

    The hours of all runs by their estimates, which runs that ended correct by one common factor;
    divided by the runs at a time, less the time gone.

    Args:
        hours: of each kind of run, estimated; a kind that is missing counts as the others' mean.
        jobs: every run that is to be made.
        workers: runs at a time.
    """

    def __init__(self, hours: Mapping[str, float], jobs: Iterable[Job], workers: int):
        kinds = [job.kind for job in jobs]
        mean = sum(hours.values()) / len(hours) if hours else 0.0
        self.hours = {kind: hours.get(kind, mean) for kind in kinds}
        self.left = sum(self.hours[kind] for kind in kinds)
        self.workers = workers
        self.done = 0.0
        self.began = self.changed = time.monotonic()

    def ended(self, job: Job) -> None:
        """Takes a run off what is left."""
        self.left -= self.hours[job.kind]
        self.done += self.hours[job.kind]
        self.changed = time.monotonic()

    def __str__(self) -> str:
        if not self.hours or not self.left + self.done:
            return "time left unknown"
        pace = 1.0  # hours on the clock for an estimated hour
        if self.done:
            pace = (self.changed - self.began) / 3600 * self.workers / self.done
        since = (time.monotonic() - self.changed) / 3600
        hours = max(0.0, self.left * pace / self.workers - since)
        return f"about {hours:.1f} h left" if hours >= 1 else f"about {hours * 60:.0f} min left"


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
        renewed = time.monotonic()

        def tick() -> None:
            nonlocal renewed
            if sys.stderr.isatty() and time.monotonic() - renewed > REFRESH:
                renewed = time.monotonic()
                bar.set_postfix_str(str(remaining))

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

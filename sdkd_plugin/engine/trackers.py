"""Experiment trackers that a run tells what it does: by accelerate's own, each in a thread of its
own, so that none can stop a training, or be waited for by one.
"""

import math
import queue
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

from sdkd_plugin.engine.tracker_kinds import KINDS, Tool
from sdkd_plugin.files import read_object, write_json
from sdkd_plugin.printable import printable

FOLDER = "trackers"  # in a run's folder: what each tracker calls the run, and what it knows of it
WAITING = 256  # things told that a tracker has not taken in yet; more is lost
PATIENCE = 30.0  # seconds that a finished run waits for a tracker
IMPATIENCE = 3.0  # seconds that one that was broken off does

Row = Mapping[str, Any]
Job = Callable[[Tool], None]


def warn_left_out(name: str, why: str) -> None:
    """Says in one line that a run goes on without a tracker."""
    said = printable(" ".join(why.split()))[:300]
    warnings.warn(
        f"tracker {name} is left out from here on, the training goes on: {said}", stacklevel=3
    )


class Tracker:
    """One tool that follows one run.

    What it is told goes to a thread; whatever goes wrong there is told once, and from then on this
    tracker is left out. It knows which epochs the tool keeps, in a file in the run's folder, so
    that a resumed run goes on in the same run of the tool, and misses none. Epochs that are trained
    again, or that a killed process may have taken with it, are told again.

    Args:
        name: one of KINDS.
        run: the run's folder.
        about: what `tracker_kinds` needs to begin or go on with it.
        done: the run's complete epochs.
    """

    def __init__(self, name: str, run: Path, about: Mapping[str, Any], done: int):
        self.name = name
        self.failed = False
        self._file = run / FOLDER / f"{name}.json"
        self._about = about
        self._queue: queue.Queue[Job | None] = queue.Queue(WAITING)
        self._epochs = done  # that the tool was told; not more, whatever the file says
        self._told: deque[tuple[float, int]] = deque()  # when it was told so many epochs
        self._thread = Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def tell(self, job: Job) -> None:
        """Has the tool do something; returns at once."""
        if self.failed:
            return
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            self._fail(f"it is {WAITING} steps behind")

    def epochs(self, history: list[dict[str, Any]]) -> None:
        """Tells the epochs that the tool does not know yet."""
        rows = [dict(row) for row in history]

        def log(tool: Tool) -> None:
            for step, row in enumerate(rows[self._epochs :], start=self._epochs + 1):
                tool.log({key: value for key, value in row.items() if key != "phase"}, step)
            self._epochs = len(rows)
            self._told.append((time.monotonic(), self._epochs))
            self._remember(tool)

        self.tell(log)

    def close(self, patience: float) -> None:
        """Ends the tool's run, and waits so many seconds for that."""
        try:
            self._queue.put(None, timeout=patience)
        except queue.Full:
            pass
        self._thread.join(patience)
        if self._thread.is_alive() and not self.failed:
            self._fail(f"it has not ended after {patience:.1f} s")

    def _work(self) -> None:
        try:
            held = read_object(self._file) or {}
            self._epochs = min(self._epochs, int(held.get("epochs", 0)))
            tool = KINDS[self.name](self._about, held.get("id"))
            self._told.append((-math.inf, self._epochs))
            self._remember(tool)
            while (job := self._queue.get()) is not None:
                job(tool)
            tool.finish()
            self._told.append((-math.inf, self._epochs))
            self._remember(tool)
        # foreign code, which must not end a training, whatever it raises
        except (Exception, SystemExit) as error:
            self._fail(f"{type(error).__name__}: {error}")

    def _remember(self, tool: Tool) -> None:
        """Writes down how many epochs the tool keeps whatever happens now."""
        kept = [n for when, n in self._told if when + tool.delay <= time.monotonic()][-1]
        while self._told[0][1] < kept:
            self._told.popleft()
        self._file.parent.mkdir(exist_ok=True)
        write_json(self._file, {"id": tool.run_id, "epochs": kept})

    def _fail(self, why: str) -> None:
        if self.failed:
            return
        self.failed = True
        warn_left_out(self.name, why)


class Trackers:
    """Every tracker of a run.

    Args:
        names: of KINDS; none in a process that does not write.
        run: the run's folder.
        about, done: see `Tracker`.
    """

    def __init__(self, names: tuple[str, ...], run: Path, about: Mapping[str, Any], done: int):
        self._all = [Tracker(name, run, about, done) for name in names]

    def epochs(self, history: list[dict[str, Any]]) -> None:
        """Tells each the epochs that it does not know yet."""
        for tracker in self._all:
            tracker.epochs(history)

    def finish(self, result: Mapping[str, float], curves: bytes | None) -> None:
        """Tells each how the run ended, and ends its run there.

        Args:
            result: the final numbers, by name.
            curves: a picture of the epochs, png; None where nothing can draw one.
        """
        for tracker in self._all:
            tracker.tell(lambda tool: tool.conclude(result, curves))
        self.close(PATIENCE)

    def close(self, patience: float | None = None) -> None:
        """Ends each tool's run; all of them together are waited for as long as one.

        Args:
            patience: seconds; None: those of a run that was broken off.
        """
        until = time.monotonic() + (IMPATIENCE if patience is None else patience)
        for tracker in self._all:
            tracker.close(max(0.0, until - time.monotonic()))
        self._all = []

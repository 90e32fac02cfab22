"""Experiment trackers that a run tells what it does: by accelerate's own, each in a thread of its
own, so that none can stop a training, or be waited for by one.
"""

import queue
import time
import warnings
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


class Tracker:
    """One tool that follows one run.

    What it is told goes to a thread; whatever goes wrong there is told once, and from then on this
    tracker is left out. It knows which epochs it was told, in a file in the run's folder, so that
    a resumed run goes on in the same run of the tool, and misses none.

    Args:
        name: one of KINDS.
        run: the run's folder.
        about: what `tracker_kinds` needs to begin or go on with it.
    """

    def __init__(self, name: str, run: Path, about: Mapping[str, Any]):
        self.name = name
        self.failed = False
        self._file = run / FOLDER / f"{name}.json"
        self._about = about
        self._queue: queue.Queue[Job | None] = queue.Queue(WAITING)
        self._epochs = 0  # that the tool knows
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
            self._remember(tool.run_id)

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
            self._epochs = int(held.get("epochs", 0))
            tool = KINDS[self.name](self._about, held.get("id"))
            self._remember(tool.run_id)
            while (job := self._queue.get()) is not None:
                job(tool)
            tool.finish()
        # foreign code, which must not end a training, whatever it raises
        except (Exception, SystemExit) as error:
            self._fail(f"{type(error).__name__}: {error}")

    def _remember(self, run_id: str) -> None:
        self._file.parent.mkdir(exist_ok=True)
        write_json(self._file, {"id": run_id, "epochs": self._epochs})

    def _fail(self, why: str) -> None:
        if self.failed:
            return
        self.failed = True
        said = printable(" ".join(why.split()))[:300]
        warnings.warn(
            f"tracker {self.name} is left out from here on, the training goes on: {said}",
            stacklevel=2,
        )


class Trackers:
    """Every tracker of a run.

    Args:
        names: of KINDS; none in a process that does not write.
        run: the run's folder.
        about: see `Tracker`.
    """

    def __init__(self, names: tuple[str, ...], run: Path, about: Mapping[str, Any]):
        self._all = [Tracker(name, run, about) for name in names]

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

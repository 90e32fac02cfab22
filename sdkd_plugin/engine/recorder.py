"""What a run leaves behind, epoch by epoch: history, checkpoints, trackers, the terminal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sdkd_plugin import weights
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.engine import checkpoint
from sdkd_plugin.engine.curves import draw_curves
from sdkd_plugin.engine.events import RunEvents
from sdkd_plugin.engine.remaining import in_words
from sdkd_plugin.engine.restore import Row, todays_row
from sdkd_plugin.engine.trackers import Trackers
from sdkd_plugin.errors import UserError
from sdkd_plugin.idle import todays_identity
from sdkd_plugin.runs.folder import METRICS, RunFolder
from sdkd_plugin.runs.record import HEADLINE, Result

State = dict[str, Any]  # what a checkpoint holds


class Recorder:
    """The history of a run and the files that hold it.

    A row of the history is an epoch: its phase, its number there, what was trained and, where the
    phase scores, `test_<metric>` on the evaluated images.

    Args:
        folder: where everything goes.
        save_freq: epochs between checkpoints that are kept.
        writes: whether this process writes, of several that train the run.

    Attributes:
        trackers: who is told of each epoch.
    """

    def __init__(self, folder: RunFolder, save_freq: int, writes: bool = True):
        self.folder = folder
        self.save_freq = save_freq
        self.writes = writes
        self.label = ""  # before each line on the terminal, where several runs speak
        self.history: list[Row] = []
        self.left: Callable[[], float | None] = lambda: None  # seconds, where somebody knows
        self.trackers: list[RunEvents | Trackers] = []

    @property
    def best(self) -> Row | None:
        """The first epoch with the highest evaluated top-1; None before any was scored."""
        return best_row(self.history)

    def add(self, row: Row, phase: Phase, states: dict[str, dict[str, Any]]) -> None:
        """Takes in an epoch that is complete: saves it, then shows it.

        Args:
            states: what to save, "latest" (all that resuming needs, see `load`), "student" (the
                network that is deployed) and, where the method trains one, "teacher".
        """
        self.history.append(row)
        if self.writes:
            self.save(states)
            self.report(phase)

    def save(self, states: dict[str, dict[str, Any]]) -> None:
        """Writes metrics and the checkpoints mdistiller writes, under its names."""
        best = self.best
        epoch = len(self.history)
        latest = {
            "epoch": epoch,
            **states["latest"],
            "best_acc": best[f"test_{HEADLINE}"] if best else -1.0,
            "history": self.history,
            "identity": self.folder.identity,
        }

        names = ["latest"]
        if best is self.history[-1]:
            names.append("best")
        if epoch % self.save_freq == 0:
            names.append(f"epoch_{epoch}")
        if "teacher" in states:
            checkpoint.save(states["teacher"], self.folder.path / "teacher_latest")
        for name in reversed(names):  # latest last: once it is there the epoch is complete
            student = self.folder.path / f"student_{name.removeprefix('epoch_')}"
            checkpoint.save(states["student"], student)
            checkpoint.save(latest, self.folder.path / name, keep_previous=name == "latest")
        self.folder.write_metrics(self.history)

    def load(self, fault: Callable[[State], str]) -> State | None:
        """Goes back to the last complete epoch, or the one before if its checkpoint is damaged.

        Args:
            fault: why the run cannot go on from a checkpoint of its own; "" if it can.
        Returns:
            what `add` was given as "latest" then; None if no epoch is complete.
        Raises:
            UserError: there are checkpoints but none is good; says what to do.
        """

        def check(state: State, path: Path) -> None:
            self._check(state, path, fault)

        try:
            state = checkpoint.load_newest(self.folder.path / "latest", check)
        except UserError as error:
            raise UserError(f"{error}; {self._way_back(check)}") from error
        if state is None:
            # written after the first `latest`, so there was one
            if (self.folder.path / METRICS).exists():
                raise UserError(
                    f"{self.folder.path} has trained epochs but no latest any more; "
                    f"{self._way_back(check)}"
                )
            return None
        self.history = [todays_row(row) for row in state["history"]]
        if self.writes:
            self.folder.write_metrics(self.history)
        return state

    def _check(self, state: State, path: Path, fault: Callable[[State], str]) -> None:
        lacking = {"epoch", "model", "optimizer", "history", "identity"} - state.keys()
        if lacking or not _is_identity(state["identity"], self.folder.identity):
            raise UserError(
                f"checkpoint {path} is not of this run (lacks or differs in: "
                f"{', '.join(sorted(lacking)) or 'identity'})"
            )
        told = fault(state)
        if told:
            raise UserError(f"checkpoint {path} is damaged: {told}")

    def _way_back(self, check: Callable[[State, Path], None]) -> str:
        """What a user can do who has lost both newest checkpoints."""
        good: dict[int, str] = {}
        for path in [*self.folder.path.glob("epoch_*"), self.folder.path / "best"]:
            try:
                state = weights.load(path)
                check(state, path)
            except UserError:
                continue
            good[state["epoch"]] = path.name
        if not good:
            return f"remove {self.folder.path} and start the run again"
        epoch = max(good)
        return (
            f"copy {good[epoch]} over latest in {self.folder.path} to go on after epoch {epoch}, "
            "or remove the folder and start the run again"
        )

    def report(self, phase: Phase) -> None:
        """Shows the last epoch on the terminal and to the trackers."""
        row = self.history[-1]
        for tracker in self.trackers:
            tracker.epochs(self.history)

        score = f"test top-1 {row['test_top1']:.2f}  " if "test_top1" in row else ""
        tqdm.write(
            f"{self.label}{row['phase']} {row['epoch']}/{phase.epochs}  lr {row['lr']:.4g}  "
            f"loss {row['train_loss']:.4f}  train top-1 {row['train_top1']:.2f}  {score}"
            f"{row['images_per_second']:.0f} images/s{self._left()}"
        )

    def _left(self) -> str:
        seconds = self.left()
        return f"  {in_words(seconds)}" if seconds else ""

    def finish(self, result: Result) -> None:
        """Tells the trackers how the run ended, whose record is written already."""
        if not self.trackers:
            return
        numbers = {f"last_{name}": value for name, value in result.last.items()}
        numbers |= {f"best_{name}": value for name, value in result.best.items()}
        numbers |= {f"teacher_{n}": v for n, v in (result.teacher_score or {}).items()}
        curves = draw_curves(self.history)
        for tracker in self.trackers:
            tracker.epochs(self.history)  # those that an earlier process did not tell
            tracker.finish(numbers, curves)

    def close(self) -> None:
        """Ends the trackers. A run that failed must too: its process may train others."""
        for tracker in self.trackers:
            tracker.close()
        self.trackers = []


def _is_identity(found: Any, wanted: dict[str, Any]) -> bool:
    try:
        # through json: a tensor in a damaged one compares to no single truth
        plain = json.loads(json.dumps(found))
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(plain, dict) and todays_identity(plain) == wanted


def best_row(history: list[Row]) -> Row | None:
    """The first row with the highest HEADLINE metric; None where none is scored."""
    scored = [row for row in history if f"test_{HEADLINE}" in row]
    return max(scored, key=lambda row: row[f"test_{HEADLINE}"], default=None)

"""What a run leaves behind, epoch by epoch: history, checkpoints, TensorBoard, the terminal."""

import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.engine import checkpoint
from sdkd_plugin.errors import UserError
from sdkd_plugin.renames import current_names
from sdkd_plugin.runs.folder import RunFolder
from sdkd_plugin.runs.names import SCHEMA_1_COLUMNS
from sdkd_plugin.runs.record import HEADLINE

Row = dict[str, Any]


class Recorder:
    """The history of a run and the files that hold it.

    A row of the history is an epoch: its phase, its number there, what was trained and, where the
    phase scores, `test_<metric>` on the evaluated images.

    Args:
        folder: where everything goes.
        save_freq: epochs between checkpoints that are kept.
    """

    def __init__(self, folder: RunFolder, save_freq: int):
        self.folder = folder
        self.save_freq = save_freq
        self.history: list[Row] = []
        self.events: EventsWriter | None = None

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

    def load(self) -> dict[str, Any] | None:
        """Goes back to the last complete epoch, or the one before if its checkpoint is damaged.

        Returns:
            what `add` was given as "latest" then; None if no epoch is complete.
        """
        state = checkpoint.load_newest(self.folder.path / "latest", self._check)
        if state is None:
            return None
        self.history = [
            {SCHEMA_1_COLUMNS.get(key, key): value for key, value in row.items()}
            for row in state["history"]
        ]
        self.folder.write_metrics(self.history)
        return state

    def _check(self, state: dict[str, Any], path: Path) -> None:
        lacking = {"model", "optimizer", "history", "identity"} - state.keys()
        if lacking or current_names(state["identity"]) != self.folder.identity:
            raise UserError(
                f"checkpoint {path} is not of this run (lacks or differs in: "
                f"{', '.join(sorted(lacking)) or 'identity'})"
            )

    def report(self, phase: Phase) -> None:
        """Shows the last epoch on the terminal and in TensorBoard."""
        row = self.history[-1]
        if self.events is None:
            self.events = open_events(self.folder.path / "train.events", len(self.history))
        for key, value in row.items():
            if key != "phase":
                self.events.write_event(event(len(self.history), summary=scalar(key, value)))
        self.events.flush()

        score = f"test top-1 {row['test_top1']:.2f}  " if "test_top1" in row else ""
        tqdm.write(
            f"{row['phase']} {row['epoch']}/{phase.epochs}  lr {row['lr']:.4g}  "
            f"loss {row['train_loss']:.4f}  train top-1 {row['train_top1']:.2f}  {score}"
            f"{row['images_per_second']:.0f} images/s"
        )

    def close(self) -> None:
        """Ends the TensorBoard file."""
        if self.events is not None:
            self.events.close()


def best_row(history: list[Row]) -> Row | None:
    """The first row with the highest HEADLINE metric; None where none is scored."""
    scored = [row for row in history if f"test_{HEADLINE}" in row]
    return max(scored, key=lambda row: row[f"test_{HEADLINE}"], default=None)


def open_events(folder: Path, step: int) -> EventsWriter:
    """A TensorBoard file whose steps replace those from `step` on in older files of the folder.

    It is written as it is told: SummaryWriter has a thread for that, and waits for ever once a full
    disk has ended it.
    """
    folder.mkdir(exist_ok=True)
    # its own name holds only the second
    events = EventsWriter(str(folder / "events"), f".from{step}")
    events.write_event(event(step, session_log=SessionLog(status=SessionLog.START)))
    return events


def event(step: int, **content: Any) -> Event:
    """A TensorBoard event of this moment."""
    return Event(wall_time=time.time(), step=step, **content)

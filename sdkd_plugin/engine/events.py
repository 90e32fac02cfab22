"""What TensorBoard shows of a run, and the files that it reads."""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import hparams, image, scalar

from sdkd_plugin.engine.tracker_kinds import CURVES, picture
from sdkd_plugin.engine.trackers import warn_left_out

FOLDER = "train.events"

Row = Mapping[str, Any]


class RunEvents:
    """A run in TensorBoard: its config (HPARAMS), its epochs and result (SCALARS), its curves
    (IMAGES).

    A process writes a file of its own that holds the run from its first epoch on, and replaces what
    other files say: whatever became of them, no epoch is missing. A file that cannot be written is
    told once and left out.

    Args:
        run: the run's folder.
        config: each key with a bool, a number or a text.
    """

    def __init__(self, run: Path, config: Mapping[str, Any]):
        self._folder = run / FOLDER
        self._start, self._end = hparams(dict(config), {})[1:]
        self._file: RecordWriter | None = None
        self._failed = False
        self._epochs = 0  # in the file

    def epochs(self, history: Sequence[Row]) -> None:
        """Writes the epochs that the file does not hold yet; a step is an epoch of any phase."""
        self._try(lambda file: self._write_epochs(file, history))

    def finish(self, result: Mapping[str, float], curves: bytes | None) -> None:
        """Writes how the run ended, then `close`.

        Args:
            result: the final numbers, by name.
            curves: a picture of the epochs, png; None where nothing can draw one.
        """
        self._try(lambda file: self._write_end(file, result, curves))
        self.close()

    def close(self) -> None:
        """Ends the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _try(self, write: Callable[[RecordWriter], None]) -> None:
        if self._failed:
            return
        try:
            if self._file is None:
                self._file = open_events(self._folder, 1)
                self._file.write(event(summary=self._start))
            write(self._file)
            self._file.flush()
        except OSError as error:
            self._failed = True
            with suppress(OSError):  # what is still to be written cannot be
                self.close()
            warn_left_out("tensorboard", str(error))

    def _write_epochs(self, file: RecordWriter, history: Sequence[Row]) -> None:
        for step, row in enumerate(history[self._epochs :], start=self._epochs + 1):
            _write_scalars(file, {key: row[key] for key in row if key != "phase"}, step)
        self._epochs = len(history)

    def _write_end(
        self, file: RecordWriter, result: Mapping[str, float], curves: bytes | None
    ) -> None:
        _write_scalars(file, result, self._epochs)
        if curves is not None:
            pixels = np.asarray(picture(curves))
            shown = image(CURVES, pixels, dataformats="HWC")
            file.write(event(step=self._epochs, summary=shown))
        file.write(event(summary=self._end))


def _write_scalars(file: RecordWriter, values: Mapping[str, float], step: int) -> None:
    for key, value in values.items():
        file.write(event(step=step, summary=scalar(key, value)))


def open_events(folder: Path, step: int) -> RecordWriter:
    """A TensorBoard file whose steps replace those from `step` on in older files of the folder.

    It is written as it is told, and closed though the disk is full: SummaryWriter has a thread that
    a full disk ends, and then waits for it for ever; EventsWriter then keeps the file open.
    """
    folder.mkdir(exist_ok=True)
    # to the microsecond: a run that goes on in the second of its start has a file of its own
    name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.from{step}"
    events = RecordWriter(str(folder / name))
    events.write(event(file_version="brain.Event:2"))
    events.write(event(step=step, session_log=SessionLog(status=SessionLog.START)))
    return events


def event(**content: Any) -> bytes:
    """A TensorBoard event of this moment."""
    return Event(wall_time=time.time(), **content).SerializeToString()

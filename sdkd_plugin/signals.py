"""Signals that end a command: SIGTERM and SIGHUP stop it as Ctrl-C does, so it can clean up."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = ("SIGTERM", "SIGHUP")  # Windows lacks the second
# A terminal that closes sends SIGHUP twice, and systemd sends it right after SIGTERM: what comes
# within these seconds is one wish, and must not break into the cleaning up after the first.
TOGETHER = 5.0
PATIENCE = 60.0  # seconds to clean up in after the end of standard input


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    Args:
        number: which one; `exit_code` of it is what the process should end with.
    """

    def __init__(self, number: int):
        self.number = signal.Signals(number)
        super().__init__(self.number.name)


def signal_of(error: KeyboardInterrupt) -> signal.Signals:
    """The signal behind an interruption: `Interrupted` says it, any other is Ctrl-C's SIGINT."""
    return error.number if isinstance(error, Interrupted) else signal.SIGINT


def exit_code(error: KeyboardInterrupt) -> int:
    """128 plus the signal's number, as shells count: 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM."""
    return 128 + signal_of(error)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP raise `Interrupted` in the main thread; after it they act
    as before.

    A signal that is ignored on entry stays ignored: `nohup` counts on it. Outside the main thread,
    where Python sets no handlers, the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    raised = -TOGETHER

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        now = time.monotonic()
        if now - raised >= TOGETHER:
            raised = now
            raise Interrupted(number)

    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in former.items():
            # None: set by what is not Python, and Python cannot set it again
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def end_with_stdin() -> None:
    """From now on the end of standard input ends this process as SIGTERM does: it comes when the
    process that holds the other end of the pipe is gone, be it killed.
    """

    def watch() -> None:
        try:
            while os.read(0, 1024):
                pass
        except OSError:  # closed: nobody is there, either
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="end with stdin", daemon=True).start()

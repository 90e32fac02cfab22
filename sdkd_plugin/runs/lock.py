"""Whether somebody writes to a run folder; torch is not needed here."""

from pathlib import Path

from filelock import FileLock, Timeout

FILE = ".lock"


def is_locked(folder: Path) -> bool:
    """Whether another process writes there now."""
    file = folder / FILE
    if not file.exists():
        return False
    try:
        with FileLock(file).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # whoever wants to write will say it
        return False

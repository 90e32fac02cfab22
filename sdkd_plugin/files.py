"""Files that are never half written: atomic writes, json, hashes; torch is not needed here."""

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from sdkd_plugin.errors import UserError


def write_atomic(
    path: Path, write: Callable[[IO[bytes]], object], previous: Path | None = None
) -> None:
    """Calls `write` on a temporary file beside `path`, flushes it to disk and renames it into
    place.

    Args:
        path: where the whole file will stand; a file already there survives every failure.
        write: fills the open file.
        previous: where to keep the file that is replaced, if any.
    Raises:
        UserError: the file cannot be written, as on a full disk.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())

        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would lock colleagues out

        if previous and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch's zip writer hides a full disk's OSError behind a RuntimeError
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UserError(
            f"{path} cannot be written: {reason}; what was there before is intact"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    write_atomic(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes readable json atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads a json file; None where there is none.

    Raises:
        UserError: the file is torn or no json.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is no valid json ({error}); remove the run folder or restore the file"
        ) from error


def require_regular(path: str | Path) -> None:
    """Raises OSError unless this is a file with an end: a pipe or a device may have none.

    What does not exist or may not be looked at raises as `os.stat` does.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def sha256(path: str | Path) -> str:
    """First 16 hex digits of the file's SHA-256. Raises OSError as `require_regular` does."""
    require_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

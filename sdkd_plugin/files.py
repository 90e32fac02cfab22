"""Files that are never half written: atomic writes, json, hashes; torch is not needed here."""

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from sdkd_plugin.errors import UserError

LIMIT = 64 * 2**20  # bytes of a text that is read whole


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
    # named before it exists: a signal between making it and the `try` would leave it there
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())

        if previous and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch's zip writer hides what went wrong behind a RuntimeError: a full disk's OSError,
        # or a signal
        hidden = error.__context__
        if isinstance(hidden, KeyboardInterrupt):
            raise hidden from None
        reason = hidden if isinstance(hidden, OSError) else error
        raise UserError(
            f"{path} cannot be written: {reason}; what was there before is intact"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    write_atomic(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes readable json atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def require_regular(path: str | Path) -> int:
    """The size in bytes of a file with an end: a pipe or a device may have none.

    Raises:
        OSError: it is something else, does not exist or may not be looked at.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return status.st_size


def read_text(path: Path, limit: int = LIMIT) -> str:
    """Reads a UTF-8 file whole; its line ends become newlines.

    Args:
        limit: bytes; a larger file is somebody's mistake or trap, and is not read into memory.
    Raises:
        OSError: there is none, or it cannot be read, as a pipe, which would never end.
        UserError: it is too large.
        UnicodeDecodeError: it is no UTF-8.
    """
    if require_regular(path) > limit:
        raise UserError(f"{path} is larger than {limit / 2**20:g} MiB, the most that is read")
    with open(path, "rb", buffering=0) as file:
        content = file.read()
    return content.decode().replace("\r\n", "\n")


def read_json(path: Path) -> Any:
    """Reads a json file; None where there is none.

    Raises:
        OSError: it cannot be read, as a pipe.
        UserError: the file is torn, no json or too large.
    """
    remedy = "remove the run folder or restore the file"
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from error
    # no json, no UTF-8, a number of 5,000 digits; nested too deeply
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no valid json ({error}); {remedy}") from error


def read_object(path: Path) -> dict[str, Any] | None:
    """Reads a json file that holds an object; None where there is none.

    Raises:
        UserError: as `read_json`, or the file holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict) and path.exists():  # `null` is read as None, too
        raise UserError(
            f"{path} holds {type(value).__name__}, not an object; remove the run folder or restore "
            "the file"
        )
    return value


def sha256(path: str | Path) -> str:
    """First 16 hex digits of the file's SHA-256. Raises OSError as `require_regular` does."""
    require_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

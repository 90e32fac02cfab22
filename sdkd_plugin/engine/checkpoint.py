"""Files that are never half written and never trusted: atomic save, safe load, and what a bad file is told."""

import hashlib
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from sdkd_plugin.errors import UserError


def write_atomic(path: Path, write: Callable[[IO[bytes]], None], previous: Path | None = None) -> None:
    """Calls `write` on a temporary file beside `path`, flushes it to disk and renames it into place.

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
    except (OSError, RuntimeError) as error:  # torch's zip writer hides a full disk's OSError behind a RuntimeError
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UserError(f"{path} cannot be written: {reason}; what was there before is intact") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_atomic(path, lambda file: file.write(text.encode()))


def save(state: dict[str, Any], path: Path, keep_previous: bool = False) -> None:
    """Saves a checkpoint atomically; with `keep_previous` the file it replaces stays, see `load_newest`."""
    write_atomic(path, lambda file: torch.save(state, file), _previous(path) if keep_previous else None)


def load_newest(path: Path, check: Callable[[dict[str, Any], Path], None]) -> dict[str, Any] | None:
    """Loads `path`, or the file it replaced if `path` is missing or damaged; None if there is neither.

    The file that is loaded then stands at `path`, so that the next save keeps it and not a damaged one.

    Args:
        path: a checkpoint saved with `keep_previous`.
        check: raises UserError for a readable checkpoint that is not the wanted one.
    Raises:
        UserError: there are files but none is good; the newest one's fault is told.
    """
    failures = []
    for candidate in (path, _previous(path)):
        if candidate.exists():
            try:
                state = load(candidate)
                check(state, candidate)
            except UserError as error:
                failures.append(error)
            else:
                for failure in failures:
                    warnings.warn(f"{failure}; going back to {candidate}", stacklevel=2)
                os.replace(candidate, path)
                return state
    if failures:
        raise failures[0]
    return None


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")


def load(path: str | Path) -> dict[str, Any]:
    """Loads a checkpoint onto the CPU without running any code in it.

    Raises:
        UserError: the file is missing, truncated, no torch file, holds code, or holds something else than a dict.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {path} does not exist") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path} is refused: it is no torch file or holds objects other than tensors and plain values, "
            "which could run code when loaded; save it again as {'model': state_dict}"
        ) from error
    except Exception as error:  # damaged bytes make the unpickler fail in every way there is
        detail = " ".join(str(error).split())[:150]
        raise UserError(f"checkpoint {path} cannot be read, it is truncated or no torch file ({detail})") from error
    if not isinstance(state, dict):
        raise UserError(f"checkpoint {path} holds {type(state).__name__}; wanted {{'model': state_dict}}")
    return state


def load_weights(model: nn.Module, path: str | Path, name: str) -> None:
    """Fills a bare model from `{"model": state_dict}`, the format of mdistiller's teachers and our `student_*` files.

    Args:
        model: the network to fill.
        path: the checkpoint.
        name: the model's registry name, for messages.
    Raises:
        UserError: unreadable file, no "model" entry, another number of classes, or another model.
    """
    state = load(path)
    if not isinstance(state.get("model"), dict):
        raise UserError(f"checkpoint {path} has the entries {sorted(map(str, state))[:6]}; wanted 'model', a state_dict")
    entries = state["model"].items()
    if not all(isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided for key, value in entries):
        raise UserError(f"checkpoint {path}: 'model' holds something else than named, dense tensors; wanted a state_dict")
    weights = {key.removeprefix("module."): value for key, value in entries}
    own = model.state_dict()
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = sorted(key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape)
    *_, head, bias = own  # the classifier stands last
    if not missing and not foreign and set(wrong) == {head, bias} and own[head].shape[1:] == weights[head].shape[1:]:
        theirs, ours = len(weights[head]), len(own[head])
        raise UserError(
            f"checkpoint {path} was trained for {theirs} classes, the data set has {ours}; give a {name} of this data set"
        )
    if missing or foreign or wrong:
        detail = f"missing {missing[:1]}, unknown {foreign[:1]}, of another shape {wrong[:1]}"
        raise UserError(f"checkpoint {path} is not for model {name!r}: {detail}, ...; check DISTILLER.* or -m")
    model.load_state_dict(weights)


def sha256(path: str | Path) -> str:
    """First 16 hex digits of the file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

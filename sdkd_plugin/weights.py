"""Networks from files that are never trusted: no code runs, and what is damaged or does not fit is
told.
"""

import hashlib
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import require_regular
from sdkd_plugin.forms import find_state_dict

DIGEST = "digest"  # the entry of our checkpoints that holds the digest of all others
_ZIP = b"PK\x03\x04"  # what torch, since 1.6, takes a file for a zip by
_HEX = re.compile("[0-9a-f]{64}")


def digest(state: dict[str, Any]) -> str:
    """SHA-256 of a checkpoint's content, in hex: of every key, value, type, shape and bit, not of
    how a file holds them, so that it is the same before saving and after loading.

    Args:
        state: dicts, lists, tuples, tensors and plain values, nested.
    """
    hasher = hashlib.sha256()
    _feed(hasher, state)
    return hasher.hexdigest()


def _feed(hasher: "hashlib._Hash", value: Any) -> None:
    """Adds a value in a form that no other value has: what it is, its size, its content."""
    if isinstance(value, Tensor):
        hasher.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        hasher.update(flat.view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        hasher.update(f"dict {len(value)} ".encode())
        for key in sorted(value, key=lambda key: (type(key).__name__, repr(key))):
            _feed(hasher, key)
            _feed(hasher, value[key])
    elif isinstance(value, list | tuple | set | frozenset):
        hasher.update(f"{type(value).__name__} {len(value)} ".encode())
        ordered = isinstance(value, list | tuple)
        for item in value if ordered else sorted(value, key=repr):
            _feed(hasher, item)
    else:  # a plain value's repr has every bit of it
        text = repr(value).encode()
        hasher.update(f"{type(value).__name__} {len(text)} ".encode() + text)


def load(path: str | Path) -> dict[str, Any]:
    """Loads a checkpoint onto the CPU without running any code in it, and verifies it: a zip by its
    own checksums, and by the digest where there is one (`engine.checkpoint.save` adds it).

    torch verifies neither. A file in its format before 1.6 has nothing to verify; a warning says
    so.

    Raises:
        UserError: the file is missing, damaged, truncated, no torch file, holds code, or holds
            something else than a dict.
    """
    path = Path(path)
    try:
        has_checksums = _verify_checksums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
        if not has_checksums:
            warnings.warn(
                f"checkpoint {path} is in torch's format before 1.6, which has no checksums: "
                "damage in it is not seen",
                stacklevel=2,
            )
        if isinstance(state, dict):
            _verify_digest(state, path)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {path} does not exist") from error
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path} is refused: it is no torch file or holds objects other than "
            "tensors and plain values, "
            "which could run code when loaded; save it again as {'model': state_dict}"
        ) from error
    except Exception as error:  # damaged bytes make the unpickler fail in every way there is
        detail = " ".join(str(error).split())[:150]
        raise UserError(
            f"checkpoint {path} cannot be read, it is truncated or no torch file ({detail})"
        ) from error

    if not isinstance(state, dict):
        raise UserError(
            f"checkpoint {path} holds {type(state).__name__}; wanted {{'model': state_dict}}"
        )
    return state


def _verify_checksums(path: Path) -> bool:
    """Reads the whole file once; returns False for one that has no checksums.

    Raises:
        UserError: a part differs from its CRC. What zipfile raises for a damaged index passes.
    """
    try:
        require_regular(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    with open(path, "rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    if not is_zip:
        if zipfile.is_zipfile(path):
            raise UserError(f"checkpoint {path} is damaged: its beginning is not a torch file's")
        return False

    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise UserError(f"checkpoint {path} is damaged: {bad} in it differs from its checksum")
    return True


def _verify_digest(state: dict[str, Any], path: Path) -> None:
    """Takes our digest out of what was loaded, if there is one, and compares. Raises UserError
    where it differs.
    """
    recorded = state.get(DIGEST)
    # a foreign file may have an entry of that name, too
    if not isinstance(recorded, str) or not _HEX.fullmatch(recorded):
        return
    del state[DIGEST]
    if digest(state) != recorded:
        raise UserError(
            f"checkpoint {path} is damaged: its content and its digest differ; if it was "
            f"changed on purpose, save it without its {DIGEST!r}"
        )


def load_weights(model: nn.Module, path: str | Path, name: str) -> None:
    """Fills a bare model from `{"model": state_dict}`, the format of mdistiller's teachers and our
    `student_*` files, or another of the `forms`.

    Args:
        model: the network to fill.
        path: the checkpoint.
        name: the model's registry name, for messages.
    Raises:
        UserError: unreadable or damaged file, no state_dict, another number of classes, another
            model, or weights that are no numbers of the model's kind, NaN or infinite.
    """
    weights = state_dict(path)
    own = model.state_dict()
    missing = sorted(own.keys() - weights.keys())
    foreign = sorted(weights.keys() - own.keys())
    wrong = sorted(
        key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape
    )

    *_, head, bias = own  # the classifier stands last
    if (
        not missing
        and not foreign
        and set(wrong) == {head, bias}
        and own[head].shape[1:] == weights[head].shape[1:]
    ):
        theirs = len(weights[head])
        ours = len(own[head])
        raise UserError(
            f"checkpoint {path} was trained for {theirs} classes, the data set has {ours}; give a "
            f"{name} of this data set"
        )

    if missing or foreign or wrong:
        detail = f"missing {missing[:1]}, unknown {foreign[:1]}, of another shape {wrong[:1]}"
        raise UserError(
            f"checkpoint {path} is not for model {name!r}: {detail}, ...; check DISTILLER.* or -m"
        )
    _check_values(own, weights, path)
    model.load_state_dict(weights)


def _check_values(own: dict[str, Tensor], weights: dict[str, Tensor], path: str | Path) -> None:
    """Raises UserError for the first tensor that is of another kind than the model's, or NaN or
    infinite in the model's precision.
    """
    for key, value in weights.items():
        kind = own[key].dtype
        given = value.dtype
        same = given.is_floating_point == kind.is_floating_point
        if not same or given.is_complex != kind.is_complex:
            raise UserError(
                f"checkpoint {path}: {key!r} holds {given} instead of {kind}: converted wrongly?"
            )
        bad = int((~torch.isfinite(value.to(kind))).sum())
        if bad:
            raise UserError(
                f"checkpoint {path}: {key!r} holds {bad} of {value.numel()} values that are NaN or "
                "infinite: the training that made it had failed; give another file"
            )


def state_dict(path: str | Path) -> dict[str, Tensor]:
    """The named, dense tensors in a checkpoint of any of the forms that `forms` knows.

    Raises:
        UserError: unreadable file, or not exactly one state_dict in it.
    """
    state = find_state_dict(load(path), path)
    if not all(
        isinstance(key, str) and isinstance(value, Tensor) and is_dense(value)
        for key, value in state.items()
    ):
        raise UserError(
            f"checkpoint {path} holds something else than named, dense tensors; wanted a state_dict"
        )
    return state


def is_dense(value: Tensor) -> bool:
    """Whether a tensor has a plain value at every place; hostile files hold other kinds, too."""
    return (
        value.layout == torch.strided
        and not value.is_quantized
        and not value.is_nested
        and not value.is_meta
    )

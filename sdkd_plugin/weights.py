"""Networks from files that are never trusted: no code runs, and what does not fit is told."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.forms import find_state_dict


def load(path: str | Path) -> dict[str, Any]:
    """Loads a checkpoint onto the CPU without running any code in it.

    Raises:
        UserError: the file is missing, truncated, no torch file, holds code, or holds something
            else than a dict.
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


def load_weights(model: nn.Module, path: str | Path, name: str) -> None:
    """Fills a bare model from `{"model": state_dict}`, the format of mdistiller's teachers and our
    `student_*` files, or another of the `forms`.

    Args:
        model: the network to fill.
        path: the checkpoint.
        name: the model's registry name, for messages.
    Raises:
        UserError: unreadable file, no state_dict, another number of classes, or another model.
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
    model.load_state_dict(weights)


def state_dict(path: str | Path) -> dict[str, Tensor]:
    """The named, dense tensors in a checkpoint of any of the forms that `forms` knows.

    Raises:
        UserError: unreadable file, or not exactly one state_dict in it.
    """
    state = find_state_dict(load(path), path)
    if not all(
        isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided
        for key, value in state.items()
    ):
        raise UserError(
            f"checkpoint {path} holds something else than named, dense tensors; wanted a state_dict"
        )
    return state

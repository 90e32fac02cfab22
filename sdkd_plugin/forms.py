"""The forms in which checkpoints of this and other toolkits hold a network's weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sdkd_plugin.errors import UserError

# Entries that hold a state_dict: mdistiller's and ours, and what most others write.
ENTRIES = ("model", "state_dict", "net")
_TRAINING = {"model", "optimizer", "history", "identity"}  # what only our `latest` has together
_PARALLEL = "module."  # what DataParallel puts before every name


def find_state_dict(state: Mapping[Any, Any], path: str | Path) -> dict[str, Any]:
    """The state_dict in what a checkpoint holds, if that is unambiguous: the one entry of ENTRIES
    that is there, or the whole file where it holds nothing but named tensors. A "module." before
    every name is taken off.

    Args:
        state: what the file holds.
        path: of the file, for messages.
    Raises:
        UserError: there is none, or more than one; or the file is what a run resumes from, whose
            network lies beside it.
    """
    if state.keys() >= _TRAINING:
        name = Path(path).name.removeprefix("epoch_").removesuffix(".previous")
        beside = Path(path).with_name(f"student_{name}")
        if not beside.is_file():
            beside = Path("student_latest")
        raise UserError(
            f"checkpoint {path} is what --resume goes on from, student, optimiser and all; use "
            f"{beside.name} of the same folder, which holds the student alone"
        )

    there = [name for name in ENTRIES if isinstance(state.get(name), dict)]
    if len(there) > 1:
        raise UserError(
            f"checkpoint {path} has several networks: the entries {' and '.join(there)}; save the "
            "one that is meant as {'model': state_dict}"
        )
    if there:
        weights = state[there[0]]
    elif state and all(isinstance(value, Tensor) for value in state.values()):
        weights = dict(state)
    else:
        raise UserError(
            f"checkpoint {path} has the entries {sorted(map(str, state))[:6]}; wanted a state_dict,"
            f" alone or as one of {', '.join(ENTRIES)}"
        )
    return _without_parallel(weights)


def _without_parallel(weights: Mapping[Any, Any]) -> dict[Any, Any]:
    if not all(isinstance(key, str) and key.startswith(_PARALLEL) for key in weights):
        return dict(weights)
    return {key.removeprefix(_PARALLEL): value for key, value in weights.items()}

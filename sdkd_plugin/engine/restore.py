"""Whether a run can go on from what a checkpoint says: nothing in it is believed that does not fit
the run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import is_finite
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.engine.optimizer import buffer_names, optimizer_settings
from sdkd_plugin.runs.names import SCHEMA_1_COLUMNS
from sdkd_plugin.runs.record import HEADLINE
from sdkd_plugin.weights import is_dense

TRAINED = ("lr", "train_loss", "train_top1", "train_seconds", "images_per_second")
SCORED = (f"test_{HEADLINE}", "test_seconds")

Row = dict[str, Any]


def todays_row(row: Row) -> Row:
    """An epoch's row as any version wrote it, with today's names of columns."""
    return {SCHEMA_1_COLUMNS.get(key, key): value for key, value in row.items()}


def history_fault(state: Mapping[str, Any], schedule: Sequence[tuple[Phase, int]]) -> str:
    """Why a checkpoint's history is not that of the first epochs of `schedule`; "" if it is."""
    history = state["history"]
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        return "its history is no list of epochs"
    done = len(history)
    epoch = state["epoch"]
    if not 0 < done <= len(schedule) or type(epoch) is not int or epoch != done:
        return f"its history has {done} epochs of {len(schedule)}, it is of epoch {epoch!r}"

    for row, (phase, epoch) in zip(map(todays_row, history), schedule, strict=False):
        needed = TRAINED + (SCORED if phase.scores else ())
        wrong = [key for key in needed if not is_finite(row.get(key))]
        wrong += [key for key, value in row.items() if not _is_cell(key, value)]
        if wrong:
            return f"epoch {epoch} of phase {phase.name!r} in its history has no valid {wrong[0]}"
        if (row.get("phase"), row.get("epoch")) != (phase.name, epoch):
            return f"its history lacks epoch {epoch} of phase {phase.name!r}"
    return ""


def _is_cell(key: Any, value: Any) -> bool:
    kind = str if key == "phase" else int | float
    return isinstance(key, str) and isinstance(value, kind)


def model_fault(found: Any, wanted: Mapping[str, Tensor]) -> str:
    """Why these cannot be values of `wanted`'s tensors: other names, shapes or types, or NaN or
    infinite; "" if they can.
    """
    if not isinstance(found, dict):
        return "its model is no state_dict"
    strange = sorted(map(repr, found.keys() ^ wanted.keys()))
    if strange:
        return f"its model lacks or has unknown {strange[0]}"
    for key, tensor in wanted.items():
        if not _is_like(found[key], tensor):
            return f"{key!r} in its model is of another shape or type"
        if not torch.isfinite(found[key]).all():
            return f"{key!r} in its model holds values that are NaN or infinite"
    return ""


def optimizer_fault(found: Any, groups: Sequence[Mapping[str, Any]], solver: CN) -> str:
    """Why this is not the state of SOLVER's optimiser over `groups`; "" if it is.

    Args:
        found: what such an optimiser's `state_dict()` gave.
        groups: what `Distiller.get_parameter_groups` says of the phase.
        solver: the config's node.
    """
    if not isinstance(found, dict) or not {"state", "param_groups"} <= found.keys():
        return "its optimizer has no state and param_groups"
    if not isinstance(found["param_groups"], list) or len(found["param_groups"]) != len(groups):
        return "its optimizer has another number of groups"

    parameters: list[Tensor] = []
    for saved, group in zip(found["param_groups"], groups, strict=True):
        params = list(group["params"])
        settings = {
            **optimizer_settings(solver),
            "lr_factor": group.get("lr_factor", 1.0),
            "params": list(range(len(parameters), len(parameters) + len(params))),
        }
        for key, value in settings.items():
            if not isinstance(saved, dict) or not _is_plain(saved.get(key), value):
                return f"its optimizer has another {key}"
        parameters += params

    if not isinstance(found["state"], dict):
        return "its optimizer has no state"
    names = {*buffer_names(solver)}
    for number, state in found["state"].items():
        known = isinstance(number, int) and 0 <= number < len(parameters)
        if not known or not isinstance(state, dict) or not names >= state.keys() != set():
            return f"its optimizer has the strange state {number!r}"
        for buffer in state.values():
            if buffer is not None and not _is_like(buffer, parameters[number]):
                return f"momentum {number} of its optimizer is of another shape or type"
    return ""


def _is_plain(found: Any, wanted: Any) -> bool:
    """Whether these are the same numbers; a tensor, which compares to no single truth, is none."""
    numbers = found if isinstance(found, list) else [found]
    return all(isinstance(number, int | float) for number in numbers) and bool(found == wanted)


def _is_like(value: Any, tensor: Tensor) -> bool:
    return (
        isinstance(value, Tensor)
        and is_dense(value)
        and (value.shape, value.dtype) == (tensor.shape, tensor.dtype)
    )

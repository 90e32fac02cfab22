"""What the first steps of a run did, exactly, so that anyone can see later whether theirs do it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sdkd_plugin import weights
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_object
from sdkd_plugin.runs.folder import FIRST_STEPS

FIRST = 3  # steps that are recorded

StepRecord = dict[str, str]


def record_step(losses: Mapping[str, Tensor], student: nn.Module) -> StepRecord:
    """A step by its loss, every bit of it, and by the digest of the student's state after it."""
    loss = float(sum(loss.item() for loss in losses.values()))
    return {"loss": loss.hex(), "student": weights.digest(student.state_dict())}


def read_first_steps(folder: Path) -> list[StepRecord]:
    """What a run recorded of its first steps.

    Raises:
        UserError: the folder is no run's, it recorded none, or the file is torn.
    """
    if not (folder / "identity.json").exists():
        raise UserError(f"{folder} is no run folder: it has no identity.json")
    record = read_object(folder / FIRST_STEPS)
    if record is None:
        raise UserError(
            f"{folder} has no {FIRST_STEPS}: it was begun by a version before 0.2.0 or by several "
            "processes, or has not ended its first epoch"
        )
    steps = record.get("steps")
    if not isinstance(steps, list) or not steps or not all(map(_is_record, steps)):
        raise UserError(f"{folder / FIRST_STEPS} is torn: it holds no list of steps")
    return steps


def _is_record(step: Any) -> bool:
    try:
        float.fromhex(step["loss"])
        return isinstance(step["student"], str)
    except (TypeError, KeyError, ValueError, OverflowError):
        return False

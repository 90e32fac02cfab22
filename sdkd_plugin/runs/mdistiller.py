"""Runs made by mdistiller's own trainer, as rows of the table.

That trainer records accuracies to two decimals and nothing of its config; optimiser settings and
the teacher's weights stand in its checkpoint `latest`. Method, pair and seed the user names; the
seed only numbers the runs, since mdistiller sets none.
"""

import hashlib
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdkd_plugin import weights
from sdkd_plugin.defaults import DELTA, DOT, OPTIMIZER
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_text
from sdkd_plugin.models import build_model
from sdkd_plugin.registry import MODELS
from sdkd_plugin.runs.find import WORKLOG, Rejected
from sdkd_plugin.runs.read import VANILLA, Run
from sdkd_plugin.runs.record import ACCURACIES, Result
from sdkd_plugin.runs.valid import is_number

FORM = (
    "PATH:METHOD:TEACHER/STUDENT:SEED, such as "
    "output/cifar100_baselines/dkd:DKD:resnet56/resnet20:0"
)
EPOCH = re.compile(r"^epoch: (\d+)\n(.*?)^-{25}$", re.MULTILINE | re.DOTALL)
# the last line: a run continued after it is unfinished again
FINISHED = re.compile(r"^best_acc\t[\d.]+\s*\Z", re.MULTILINE)
# mdistiller's data sets that its CIFAR models train on, by their number of classes
CLASSES = {100: "cifar100"}
# What weights_only refuses in `latest` after the first decay of the learning rate: a numpy number,
# which is plain bytes.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    np.dtype,
    np.dtypes.Float64DType,
    *((_SCALAR, f"numpy.{part}.multiarray.scalar") for part in ("core", "_core")),
]

# our metrics -> what its worklog calls them
LOGGED = {"top1": "test_acc", "top5": "test_acc_top5"}


def read_upstream(named: str) -> Run | Rejected:
    """Reads the run folder of mdistiller that `named` names, in FORM.

    METHOD is a name of this package's or of a fork's own; NONE (or vanilla) has no teacher:
    `PATH:NONE:-/resnet20:0`.
    Returns:
        the run, or the folder with the reason why it does not count.
    Raises:
        UserError: not in FORM, no such folder, or unknown models.
    """
    path, method, teacher, student, seed = _parse(named)
    try:
        rows = _read_worklog(path / WORKLOG)
        classes = _check_student(path / "student_best", student)
    except UserError as error:
        return Rejected(path, str(error))

    identity = {
        "host": "mdistiller",
        "DISTILLER.TYPE": method,
        "DISTILLER.STUDENT": student,
        "SOLVER.SEED": seed,
        "SOLVER.EPOCHS": len(rows),
        "SOLVER.LR": rows[0]["lr"],
        "DATASET.TYPE": CLASSES.get(classes, f"{classes} classes"),
        # mdistiller trains on the whole set, at its own size, and scores its test images
        "DATASET.SUBSET": 1.0,
        "DATASET.VAL_FRACTION": 0.0,
        "DATASET.IMAGE_SIZE": 0,
        "DATASET.AUGMENT": "crop_flip",
    }
    try:
        identity |= {"teacher": "not recorded", **_read_latest(path / "latest")}
    except UserError as error:
        return Rejected(path, str(error))
    identity |= {"teacher": None} if method == VANILLA else {"DISTILLER.TEACHER": teacher}

    curves = {
        metric: tuple((row["epoch"], row[logged]) for row in rows)
        for metric, logged in LOGGED.items()
    }
    return Run(path, identity, _result(identity, rows, classes), len(rows), curves)


def _result(identity: dict[str, Any], rows: list[dict[str, Any]], classes: int) -> Result:
    """The record of such a run; its trainer does not measure its teacher nor what anything cost."""
    best = max(rows, key=lambda row: row["test_acc"])
    student = build_model(identity["DISTILLER.STUDENT"], classes)
    return Result(
        method=identity["DISTILLER.TYPE"],
        teacher=identity.get("DISTILLER.TEACHER"),
        student=identity["DISTILLER.STUDENT"],
        seed=identity["SOLVER.SEED"],
        epochs=len(rows),
        schedule_epochs=len(rows),
        dataset=identity["DATASET.TYPE"],
        evaluates="test",
        train_images=None,
        metrics=ACCURACIES,
        last=_scores(rows[-1]),
        best=_scores(best),
        best_epoch=best["epoch"],
        teacher_score=None,
        wall_seconds=None,
        images_per_second=None,
        peak_memory_mib=None,
        deployed_parameters=sum(p.numel() for p in student.parameters()),
        extra_parameters=None,
        finished=None,
        config={},
        identity=identity,
        environment={},
    )


def _parse(named: str) -> tuple[Path, str, str, str, int]:
    # the path may hold colons: mdistiller writes some
    parts = re.fullmatch(r"(.+):([^:/]+):([^:/]+)/([^:/]+):(\d{1,18})", named)
    if not parts:
        raise UserError(f"--upstream {named} is not of the form {FORM}")
    path, method, teacher, student, seed = parts.groups()
    if not Path(path).is_dir():
        raise UserError(f"--upstream {named}: there is no folder {path}; allowed: {FORM}")
    method = VANILLA if method.upper() in (VANILLA, "VANILLA") else method.upper()
    for model in (student,) if method == VANILLA else (teacher, student):
        MODELS.find(model, f"--upstream {named}")
    return Path(path), method, teacher, student, int(seed)


def _read_worklog(path: Path) -> list[dict[str, Any]]:
    """One row for each epoch: its number and what the trainer logged."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{WORKLOG} cannot be read ({error}); give the folder that mdistiller's trainer wrote"
        ) from error
    if not FINISHED.search(text):
        raise UserError(
            f"is unfinished: {WORKLOG} ends without the line best_acc; go on with mdistiller's own "
            "--resume"
        )

    rows: dict[int, dict[str, Any]] = {}
    try:
        for number, lines in EPOCH.findall(text):
            epoch = int(number)
            # a run killed between log and checkpoint repeats its last epoch
            if epoch in rows and epoch != max(rows):
                raise UserError(
                    f"{WORKLOG} starts over at epoch {epoch}: two runs were written into this "
                    "folder"
                )
            logged = dict(line.split(": ") for line in lines.splitlines())
            numbers = {key: float(logged[key]) for key in ("lr", *LOGGED.values())}
            rows[epoch] = {"epoch": epoch, **numbers}
    except (KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{WORKLOG} is torn or foreign ({error!r})") from error

    if list(rows) != list(range(1, len(rows) + 1)) or not rows:
        gap = next((b for a, b in pairwise((0, *rows)) if b != a + 1), None)
        raise UserError(f"{WORKLOG} skips to epoch {gap}" if rows else f"{WORKLOG} holds no epoch")
    if not all(is_number(row["lr"]) for row in rows.values()):
        raise UserError(f"{WORKLOG} holds a learning rate that is no number")
    if not all(0 <= row[key] <= 100 for row in rows.values() for key in LOGGED.values()):
        raise UserError(f"{WORKLOG} holds an accuracy that is no percentage")
    return list(rows.values())


def _scores(row: dict[str, Any]) -> dict[str, float]:
    return {metric: row[logged] for metric, logged in LOGGED.items()}


def _check_student(path: Path, student: str) -> int:
    """The number of classes of a `student_*` file, after checking that it is of the model the user
    names.
    """
    state = weights.load(path).get("model")
    *_, bias = build_model(student, 2).state_dict()
    head = state.get(bias) if isinstance(state, dict) else None
    # a wrong file is told by load_weights
    classes = len(head) if isinstance(head, Tensor) and head.ndim == 1 else 100
    weights.load_weights(build_model(student, classes), path, student)
    return classes


def _read_latest(path: Path) -> dict[str, Any]:
    """What `latest` tells of the optimiser and the teacher; nothing if somebody has removed it to
    save space.
    """
    if not path.exists():
        return {}
    with torch.serialization.safe_globals(_NUMBERS):
        state = weights.load(path)

    try:
        group = state["optimizer"]["param_groups"][0]
        model = state["model"]
        found: dict[str, Any] = {
            "last learning rate": float(group["lr"]),
            "SOLVER.MOMENTUM": float(group["momentum"]),
            "SOLVER.WEIGHT_DECAY": float(group["weight_decay"]),
        }
        if "momentum_kd" in group:  # its DOT trainer, whose momenta lie round MOMENTUM
            found |= _dot(found["SOLVER.MOMENTUM"], float(group["momentum_kd"]))

        numbers = {key: value for key, value in found.items() if key != OPTIMIZER}
        wrong = {key: value for key, value in numbers.items() if not is_number(value)}
        if wrong:
            raise UserError(f"{path.name} holds a number that is none: {wrong}")
        teacher = {key: value for key, value in model.items() if key.startswith("module.teacher.")}
        digest = hashlib.sha256()
        for key in sorted(teacher):
            digest.update(key.encode() + teacher[key].contiguous().numpy().tobytes())
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{path.name} is not mdistiller's checkpoint ({error!r})") from error
    if teacher:
        found["teacher"] = f"weights {digest.hexdigest()[:16]}"
    return found


def _dot(task: float, kd: float) -> dict[str, Any]:
    """What a config says of a DOT run with these momenta; rounded, since they are sums."""
    mean = round((task + kd) / 2, 12)
    return {
        OPTIMIZER: DOT,
        "SOLVER.MOMENTUM": mean,
        DELTA: round(kd - mean, 12),
    }

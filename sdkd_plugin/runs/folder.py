"""The run folder: one run, one folder, never overwritten.

config.yaml       the resolved config; `--cfg` on it repeats the run
identity.json     what decides the result: config, data and teacher by content
environment.json  command, commit, versions, device, plugins
changes.diff      what the commit does not hold; only if the checkout was not clean
metrics.csv       one row per epoch
latest, best, student_latest, student_best, epoch_<n>, student_<n>    checkpoints
train.events/     TensorBoard
result.json       written last: a folder without it is an unfinished run
"""

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from yacs.config import CfgNode as CN

from sdkd_plugin.config import active_config, flatten
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_json, sha256, write_json, write_text
from sdkd_plugin.registry import METHODS
from sdkd_plugin.renames import current_names, first_names
from sdkd_plugin.runs.record import Result
from sdkd_plugin.runs.teacher import loads_teacher, teacher_path

# Keys that do not decide the result, or do so only through content that the identity names by its
# hash.
NOT_IDENTITY = (
    "EXPERIMENT.",
    "LOG.",
    "DATASET.ROOT",
    "DATASET.DOWNLOAD",
    "DATASET.NUM_WORKERS",
    "DATASET.CLASSES",
    "DATASET.TEST.",
    "DISTILLER.TEACHER_CKPT",
    "SOLVER.DEVICE",
)


def run_identity(cfg: CN, data: dict[str, Any], teacher: str | None) -> dict[str, Any]:
    """What decides a run's result, flat: every config key that matters, and data, teacher and files
    by the hash of their content.

    Args:
        data: from `data_identity`.
        teacher: hash of its checkpoint, or None.
    Raises:
        UserError: a file that a method's config key names cannot be read.
    """
    flat = {
        key: value for key, value in flatten(active_config(cfg)) if not key.startswith(NOT_IDENTITY)
    }

    method = METHODS[cfg.DISTILLER.TYPE]
    for name in method.info.get("file_keys", ()):
        key = f"{method.name}.{name}"
        try:
            flat[key] = sha256(flat[key]) if flat[key] else ""
        except OSError as error:
            raise UserError(
                f"{key} is {flat[key]!r}, which cannot be read: {error.strerror}"
            ) from error

    if method.build.teacher_from == "none":
        # a method without a teacher is the same run whatever the yaml names
        del flat["DISTILLER.TEACHER"]
    return {**flat, **data, "teacher": teacher}


def data_identity(dataset: Dataset) -> dict[str, Any]:
    """What the data add to a run's identity: their content, and what normalises them, resolved."""
    constants: dict[str, Any] = {
        "DATASET.MEAN": list(dataset.mean),
        "DATASET.STD": list(dataset.std),
    }
    if dataset.num_classes != int(dataset.train.targets.max()) + 1:
        # labels do not tell how many outputs the network has
        constants["DATASET.CLASSES"] = dataset.num_classes
    return {**constants, "data": dataset.fingerprint}


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """One line: every key whose value differs, as `KEY: here -> in the folder`."""
    keys = sorted(ours.keys() | theirs.keys())
    return "; ".join(
        f"{k}: {ours.get(k)!r} -> {theirs.get(k)!r}" for k in keys if ours.get(k) != theirs.get(k)
    )


class RunFolder:
    """`LOG.PREFIX/PROJECT/NAME/seed<k>`, locked while a process writes to it.

    Args:
        cfg: says where the folder lies.
        identity: what decides the run's result; names the folder unless EXPERIMENT.NAME does.
        teacher: the checkpoint that the teacher comes from, whose hash the identity holds; None
            for a method that loads none.
    """

    def __init__(self, cfg: CN, identity: dict[str, Any], teacher: Path | None = None):
        # as it will be read back: tuples become lists
        self.identity = json.loads(json.dumps(identity))
        self.teacher = teacher
        name = cfg.EXPERIMENT.NAME or f"{cfg.EXPERIMENT.TAG.replace(',', '_')}-{self._digest()}"
        self.path = Path(cfg.LOG.PREFIX, cfg.EXPERIMENT.PROJECT, name, f"seed{cfg.SOLVER.SEED}")

    @classmethod
    def of(cls, cfg: CN, dataset: Dataset) -> "RunFolder":
        """The folder of the run that a config means; the one place that composes an identity.

        Args:
            cfg: resolved, unscaled.
            dataset: what `load_dataset` makes of it.
        Raises:
            MissingTeacherError: the teacher has no checkpoint, so the run is not determined yet.
            UserError: a file that a method's config key names cannot be read.
        """
        teacher = teacher_path(cfg) if loads_teacher(cfg) else None
        digest = None if teacher is None else sha256(teacher)
        return cls(cfg, run_identity(cfg, data_identity(dataset), digest), teacher)

    def _digest(self) -> str:
        # by the names that keys had first: to rename a key must not make another run of a run
        named = first_names(self.identity)
        decides = {key: value for key, value in named.items() if key != "SOLVER.SEED"}
        text = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def result(self) -> Result | None:
        """The finished run's record, or None.

        Raises:
            UserError: result.json is torn; says which file.
        """
        try:
            return Result.read(self.path)
        except UserError as error:
            remedy = "remove the run folder or restore the file"
            said = str(error).removesuffix(f"; {remedy}")
            raise UserError(f"{self.path}: {said}; {remedy}") from error

    @property
    def started(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / "identity.json").exists()

    def check(self, resume: bool) -> None:
        """Refuses to mix this run with what the folder holds.

        Raises:
            UserError: the folder holds another run (the difference is shown), or this run
                unfinished and no `--resume`.
        """
        if not self.started:
            if self.path.exists() and any(
                not child.name.startswith(".") for child in self.path.iterdir()
            ):
                raise UserError(
                    f"{self.path} holds files of something else than a run of this package; choose "
                    "another EXPERIMENT.NAME"
                )
            return

        held = current_names(read_json(self.path / "identity.json") or {})
        changes = difference(self.identity, held)
        if changes:
            raise UserError(
                f"{self.path} holds a run with another config ({changes}); choose another "
                "EXPERIMENT.NAME or undo the change"
            )
        if not resume and self.result is None:
            raise UserError(
                f"{self.path} holds this run, unfinished; add --resume to go on, or choose another "
                "EXPERIMENT.NAME"
            )
        # what a killed process was writing; under the lock, nobody is now
        for leftover in self.path.glob(".*.*"):
            leftover.unlink()

    def lock(self) -> FileLock:
        """Creates the folder and locks it until released or the process ends.

        Raises:
            UserError: another process is writing here, or the folder cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"{self.path} is being written by another process; wait for it or choose another "
                "EXPERIMENT.NAME"
            ) from error
        except OSError as error:
            raise UserError(
                f"run folder {self.path} cannot be written: {error.strerror}; change LOG.PREFIX"
            ) from error
        return lock

    def begin(self, cfg: CN, environment: dict[str, Any], changes: str) -> None:
        """Writes what the run is, before its first step; again if a run is resumed that has no
        epoch yet.
        """
        # first: it says whose the other files are
        write_json(self.path / "identity.json", self.identity)
        write_text(self.path / "config.yaml", cfg.dump())
        if changes:
            write_text(self.path / "changes.diff", changes)
        write_json(self.path / "environment.json", environment)

    def write_metrics(self, history: list[dict[str, float]]) -> None:
        """Writes metrics.csv whole: one row per epoch, so that a resumed run leaves no stale
        rows.
        """
        columns = list(dict.fromkeys(key for row in history for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.path / "metrics.csv", text.getvalue())

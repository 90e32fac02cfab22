"""The run folder: one run, one folder, never overwritten.

config.yaml       the resolved config; `--cfg` on it repeats the run
identity.json     what decides the result: config, data and teacher by content
environment.json  command, commit, versions, device, plugins
changes.diff      what the commit does not hold; only if the checkout was not clean
first_steps.json  the losses and weights of the first steps, exactly, for `verify`
metrics.csv       one row per epoch
latest, best, student_latest, student_best, epoch_<n>, student_<n>    checkpoints
train.events/     TensorBoard, unless LOG.TRACKERS leaves it out
trackers/         what each other tracker calls this run, and how much of it it knows
result.json       written last: a folder without it is an unfinished run
"""

import copy
import csv
import hashlib
import io
import json
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from yacs.config import CfgNode as CN

from sdkd_plugin.config import usual_tag
from sdkd_plugin.data.dataset import Dataset
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_object, sha256, write_json, write_text
from sdkd_plugin.idle import todays_identity, usual_values
from sdkd_plugin.renames import first_names
from sdkd_plugin.runs.identity import NOT_IDENTITY, data_identity, difference, run_identity
from sdkd_plugin.runs.imported import recorded_environment
from sdkd_plugin.runs.lock import FILE as LOCK
from sdkd_plugin.runs.lock import is_locked
from sdkd_plugin.runs.record import Result
from sdkd_plugin.runs.teacher import loads_teacher, teacher_path
from sdkd_plugin.settings import flatten

FIRST_STEPS = "first_steps.json"
METRICS = "metrics.csv"

# Seconds to wait for a lock: longer than `RunFolder.busy` of another process holds it.
LOCK_WAIT = 0.5


class BusyError(UserError):
    """Another process writes to the run folder now."""


def recorded_threads(path: Path) -> int | None:
    """The thread count that the run in a folder began with; None if none is recorded.

    Raises:
        UserError: as `recorded_environment`.
    """
    return recorded_environment(path).get("threads")


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
        project = Path(cfg.LOG.PREFIX, cfg.EXPERIMENT.PROJECT)
        seed = f"seed{cfg.SOLVER.SEED}"
        name = cfg.EXPERIMENT.NAME or self._name(cfg, usual_values(cfg))
        self.path = project / name / seed
        if not cfg.EXPERIMENT.NAME and not self.path.exists():
            self.path = next(self._old_places(cfg, project, seed), self.path)

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

    def of_seed(self, seed: int) -> "RunFolder":
        """The folder of the same run with another seed."""
        other = copy.copy(self)
        other.identity = {**self.identity, "SOLVER.SEED": seed}
        other.path = self.path.parent / f"seed{seed}"
        return other

    def _name(self, cfg: CN, idle: dict[str, Any]) -> str:
        return f"{cfg.EXPERIMENT.TAG.replace(',', '_')}-{self._digest(idle)}"

    def _old_places(self, cfg: CN, project: Path, seed: str) -> Iterator[Path]:
        """Where earlier versions put this run: keys without effect counted, and a tag said what the
        yaml file holds, not what overrides made of it.
        """
        flat = dict(flatten(cfg))
        usual = usual_values(cfg)
        given = {key: flat[key] for key in usual}
        digests = [self._digest(given), self._digest(usual)]
        tag = cfg.EXPERIMENT.TAG.replace(",", "_")
        if cfg.EXPERIMENT.TAG == usual_tag(cfg.DISTILLER):
            tag = "*"
        for digest in digests:
            found = project.glob(f"{tag if tag == '*' else escape(tag)}-{digest}/{seed}")
            yield from sorted(path for path in found if (path / "identity.json").exists())

    def _digest(self, idle: dict[str, Any]) -> str:
        # by the names that keys had first: to rename a key must not make another run of a run, nor
        # that an idle key counts no more
        counted = {key: value for key, value in idle.items() if not key.startswith(NOT_IDENTITY)}
        named = first_names({**self.identity, **counted})
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

        held = todays_identity(read_object(self.path / "identity.json") or {})
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
        self.clear()

    def clear(self) -> None:
        """Removes what a killed process was writing; under the lock, nobody is now."""
        for leftover in self.path.glob(".*.*"):
            leftover.unlink(missing_ok=True)

    def neighbour(self) -> tuple[Path, str] | None:
        """A run of the same tag and seed that was asked for with one key other: its folder, and the
        difference as `KEY: there -> here`; None where there is none.

        SOLVER.EPOCHS goes before any other key. Data and teacher may differ along with the key.
        """
        tag, _, _ = self.path.parent.name.rpartition("-")
        near = []
        for file in self.path.parents[1].glob(f"{escape(tag)}-*/{self.path.name}/identity.json"):
            try:
                held = todays_identity(read_object(file) or {})
            except UserError:
                continue
            keys = {k for k in held | self.identity if held.get(k) != self.identity.get(k)}
            asked = keys - {"data", "teacher"} or keys
            if len(asked) == 1:
                near.append((asked != {"SOLVER.EPOCHS"}, file.parent, held))
        if not near:
            return None
        _, path, held = min(near, key=lambda found: found[:2])
        return path, difference(held, self.identity)

    @property
    def busy(self) -> bool:
        """Whether another process writes here now."""
        return is_locked(self.path)

    def lock(self) -> FileLock:
        """Creates the folder and locks it until released or the process ends.

        Raises:
            BusyError: another process is writing here.
            UserError: the folder cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK)
            lock.acquire(timeout=LOCK_WAIT)
        except Timeout as error:
            raise BusyError(
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

    def write_first_steps(self, steps: list[dict[str, str]]) -> None:
        """Writes what `verify` compares with, see `engine.verify`."""
        write_json(self.path / FIRST_STEPS, {"steps": steps})

    def write_metrics(self, history: list[dict[str, float]]) -> None:
        """Writes metrics.csv whole: one row per epoch, so that a resumed run leaves no stale
        rows.
        """
        columns = list(dict.fromkeys(key for row in history for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.path / METRICS, text.getvalue())

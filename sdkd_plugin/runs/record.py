"""The run record: what a finished run says about itself in result.json. Torch is not needed here.

The engine writes it; the table, the sweep and the demo read it. Which metrics there are only the
evaluators know: the record carries them by name and says of each what it means.
"""

import marshal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sdkd_plugin.errors import UserError
from sdkd_plugin.files import read_object, write_json
from sdkd_plugin.printable import printable
from sdkd_plugin.runs.names import todays
from sdkd_plugin.runs.valid import (
    Test,
    check_environment,
    is_count,
    is_name,
    is_name_or_none,
    is_number,
    is_object,
    is_percentage,
    is_positive,
    is_size,
    require,
    shown,
)

FILE = "result.json"
SCHEMA = 2  # 1: versions up to 9fe486a, which knew top-1 and top-5 alone; read, never written
HEADLINE = "top1"  # the metric that chooses the best epoch and that a table shows unless asked
# Costs that every run of this package records; another host's run has None.
COSTS = (
    "wall_seconds",
    "images_per_second",
    "peak_memory_mib",
    "deployed_parameters",
    "extra_parameters",
)
# What the fields of a record must be, and those of a metric's meaning.
FIELDS: dict[str, tuple[Test, str]] = {
    "method": (is_name, "a name"),
    "teacher": (is_name_or_none, "a name, or null"),
    "student": (is_name, "a name"),
    "seed": (is_count, "a whole number from 0"),
    "epochs": (is_positive, "a whole number from 1"),
    "schedule_epochs": (is_positive, "a whole number from 1"),
    "dataset": (is_name, "a name"),
    "evaluates": (lambda value: value in ("test", "val"), "test or val"),
    "train_images": (is_size, "a number from 0"),
    "best_epoch": (is_positive, "a whole number from 1"),
    **dict.fromkeys(COSTS, (is_size, "a number from 0")),
    "finished": (is_name_or_none, "a time, or null"),
    "group_size": (is_positive, "a whole number from 1"),
    "processes": (is_positive, "a whole number from 1"),
}
MEANING: dict[str, tuple[Test, str]] = {
    "label": (is_name, "a name"),
    "title": (is_name, "text"),
    "unit": (lambda value: value == "" or is_name(value), "text"),
    "better": (lambda value: value in ("higher", "lower"), "higher | lower"),
    "decimals": (lambda value: is_count(value) and value <= 9, "a whole number from 0 to 9"),
}


@dataclass(frozen=True)
class Metric:
    """What a number called by a metric's name means.

    Args:
        label: short, as a printed score and a column's head have it: "top-1".
        title: in words, as a table's title has it: "Top-1 accuracy".
        unit: "%" for values from 0 to 100, else free text such as "nats".
        better: higher | lower.
        decimals: how many a table prints.
    """

    label: str
    title: str
    unit: str
    better: str
    decimals: int = 2

    def show(self, value: float) -> str:
        """The value as tables print it."""
        return f"{value:.{self.decimals}f}"


ACCURACIES = {
    "top1": Metric("top-1", "Top-1 accuracy", "%", "higher"),
    "top5": Metric("top-5", "Top-5 accuracy", "%", "higher"),
}


@dataclass(frozen=True)
class Result:
    """Everything a table or a sceptical reader asks of one finished run.

    Args:
        method: DISTILLER.TYPE.
        teacher: the teacher's model name; None for a method without one.
        epochs, schedule_epochs: SOLVER.EPOCHS, and the epochs its schedule is written for.
        dataset: DATASET.TYPE.
        evaluates: which images were scored: test | val.
        train_images: how many were trained on.
        metrics: what each name in `last`, `best` and `teacher_score` means.
        last: each metric on the evaluated images after the last epoch; the headline.
        best: the same after the epoch with the highest HEADLINE.
        best_epoch: that epoch, 1-based within its phase.
        teacher_score: the teacher's own, measured at the start, or at the end of a run that
            trains it; None for a method without one.
        wall_seconds: of training and evaluation.
        images_per_second: of training.
        finished: UTC, ISO 8601.
        config: the config tree that decided the result.
        identity: the same flat, data and teacher by content; see `runs.folder`.
        environment: command, commit, versions, device; see `runs.environment`.
        group_size: how many runs were trained together, at most; above 1 the seconds are this
            run's share of what was done for all, and the memory is that of all.
        processes: how many trained it, at most; above 1 the memory is that of the first.
    """

    method: str
    teacher: str | None
    student: str
    seed: int
    epochs: int
    schedule_epochs: int
    dataset: str
    evaluates: str
    train_images: int | None
    metrics: Mapping[str, Metric]
    last: Mapping[str, float]
    best: Mapping[str, float]
    best_epoch: int
    teacher_score: Mapping[str, float] | None
    wall_seconds: float | None
    images_per_second: float | None
    peak_memory_mib: float | None
    deployed_parameters: int
    extra_parameters: int | None
    finished: str | None
    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    environment: Mapping[str, Any]
    group_size: int = field(default=1)
    processes: int = field(default=1)
    schema: int = field(default=SCHEMA)

    def write(self, folder: Path) -> None:
        """Writes result.json into a run's folder, atomically."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Result | None":
        """The record in a run's folder, of any schema there has been; None while there is none.

        Raises:
            UserError: the file is torn, of a later version, or holds what cannot be.
        """
        path = folder / FILE
        try:
            value = read_object(path)
        except OSError as error:
            raise UserError(f"{FILE} cannot be read: {error.strerror}") from error
        return None if value is None else cls.from_json(value)

    @classmethod
    def from_json(cls, value: Any) -> "Result":
        """The record that a json value spells. Raises UserError as `read` does."""
        if not isinstance(value, dict):
            raise UserError(f"{FILE} holds {type(value).__name__}, not an object")
        if "schema" not in value:
            value = _from_schema_1(value)
        if value["schema"] != SCHEMA:
            raise UserError(
                f"{FILE} has schema {shown(value['schema'])}; this version reads 1 and {SCHEMA}: "
                "update sdkd_plugin"
            )

        names = {each.name for each in fields(cls)}
        # which versions without groups, and without several processes, did not write
        value = {"group_size": 1, "processes": 1, **value}
        lacking = sorted(names - value.keys() - set(COSTS))
        foreign = sorted(value.keys() - names)
        if lacking or foreign:
            raise UserError(
                f"{FILE} lacks {', '.join(lacking) or 'nothing'} and has the unknown "
                f"{printable(', '.join(foreign)[:200]) or 'nothing'}: torn, or of another version"
            )
        _check_fields(value)
        shared = {
            "metrics": _once(value["metrics"], _metrics),
            "environment": _once(value["environment"], _environment),
            "config": _once(value["config"], dict),
        }
        _check_all_scores(value)
        return cls(**{**value, **shared, "identity": todays(value["identity"])})


_SEEN: dict[bytes, Any] = {}


def _once(tree: dict, make: Callable[[dict], Any]) -> Any:
    """What is made of a json tree; the same for equal ones, of which ten thousand runs have many,
    so that they are checked, and held in memory, once. Nobody may change it.
    """
    key = marshal.dumps((make.__name__, tree), 2)  # 2: equal trees give equal bytes
    if key not in _SEEN:
        _SEEN[key] = make(tree)
    return _SEEN[key]


def _metrics(meanings: dict[str, dict]) -> dict[str, Metric]:
    for name, meaning in meanings.items():
        _check_metric(name, meaning)
    return {name: Metric(**meaning) for name, meaning in meanings.items()}


def _environment(tree: dict[str, Any]) -> dict[str, Any]:
    check_environment(tree)
    return tree


def _from_schema_1(value: dict[str, Any]) -> dict[str, Any]:
    """Today's form of a record that knew two metrics, and kept the best epoch among the best's."""
    best = value.get("best")
    best = dict(best) if isinstance(best, dict) else best
    epoch = best.pop("epoch", None) if isinstance(best, dict) else None
    metrics = {name: asdict(metric) for name, metric in ACCURACIES.items()}
    return {**value, "best": best, "best_epoch": epoch, "metrics": metrics, "schema": SCHEMA}


def _check_fields(value: dict[str, Any]) -> None:
    """Raises UserError, naming the field, for a record that nobody's run can have written."""
    for key in ("config", "identity", "environment", "metrics"):
        if not isinstance(value[key], dict):
            raise UserError(f"{FILE} has no {key}")
    for key, (test, what) in FIELDS.items():
        require(test, what, f"{key} in {FILE}", value.get(key))


def _check_all_scores(value: dict[str, Any]) -> None:
    """Raises UserError, naming the score, where one is none of its metric."""
    if HEADLINE not in value["metrics"]:
        raise UserError(f"{FILE} has no metric {HEADLINE}")
    for name in ("last", "best"):
        _check_scores(name, value[name], value["metrics"])
    scored = value["teacher_score"]
    if scored is not None:
        require(is_object, "scores by metric", f"teacher_score in {FILE}", scored)
        # a teacher that an earlier version scored may lack the later metrics
        known = {key: meaning for key, meaning in value["metrics"].items() if key in scored}
        _check_scores("teacher_score", scored, known)


def _check_metric(name: str, meaning: Any) -> None:
    where = f"metric {name} in {FILE}"
    require(is_name, "called by a name", where, name)
    if not isinstance(meaning, dict) or meaning.keys() != MEANING.keys():
        raise UserError(f"{printable(where)} is {shown(meaning)}; wanted: {', '.join(MEANING)}")
    for key, (test, what) in MEANING.items():
        require(test, what, f"{key} of {where}", meaning[key])


def _check_scores(name: str, scores: Any, metrics: dict[str, dict]) -> None:
    for key, meaning in metrics.items():
        value = scores.get(key) if isinstance(scores, dict) else None
        share = meaning["unit"] == "%"
        test, what = (is_percentage, "a percentage") if share else (is_number, "a number")
        require(test, what, f"{name}.{key} in {FILE}", value)

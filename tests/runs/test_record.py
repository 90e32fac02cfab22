"""The run record: written, read again, of both schemas; what cannot be is refused."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.runs import RESULT

from sdkd_plugin.config import load_config
from sdkd_plugin.defaults import DELTA, TRAINER
from sdkd_plugin.errors import UserError
from sdkd_plugin.idle import idle_keys, todays_identity
from sdkd_plugin.renames import current_names, renamed_keys
from sdkd_plugin.runs.folder import RunFolder
from sdkd_plugin.runs.names import IDLE, todays
from sdkd_plugin.runs.names import SCHEMA_1 as SCHEMA_1_NAMES
from sdkd_plugin.runs.read import read_runs
from sdkd_plugin.runs.record import ACCURACIES, HEADLINE, Result

SCHEMA_1 = Path(__file__).with_name("schema1")


def spoil(tmp_path: Path, **changes) -> Path:
    """A folder whose record has these values in place of its own."""
    (tmp_path / "result.json").write_text(json.dumps({**asdict(RESULT), **changes}))
    return tmp_path


def test_what_is_written_is_read(tmp_path):
    assert Result.read(tmp_path) is None
    RESULT.write(tmp_path)
    assert Result.read(tmp_path) == RESULT
    assert json.loads((tmp_path / "result.json").read_text())["schema"] == 2


def test_a_metric_nobody_knew_is_carried_by_name(tmp_path):
    """Nothing between an evaluator and the table has a list of metrics."""
    meaning = {"label": "x", "title": "X", "unit": "", "better": "lower", "decimals": 1}
    path = spoil(
        tmp_path,
        metrics={**asdict(RESULT)["metrics"], "x": meaning},
        last={**RESULT.last, "x": 3.25},
        best={**RESULT.best, "x": 4.0},
    )
    read = Result.read(path)
    assert read.last["x"] == 3.25 and read.metrics["x"].show(3.25) == "3.2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 3}, "has schema 3; this version reads 1 and 2: update sdkd_plugin"),
        ({"top1": 1.0}, "has the unknown top1: torn, or of another version"),
        ({"method": 3}, "method in result.json is 3; it must be a name"),
        ({"metrics": {}}, "has no metric top1"),
        ({"metrics": {"top1": {"unit": "%"}}}, "metric top1 .* wanted: label, title, unit"),
        ({"metrics": []}, "has no metrics"),
        ({"last": {}}, "last.top1 in result.json is None; it must be a percentage"),
        ({"last": {**RESULT.last, "ece": 100.5}}, "last.ece in result.json is 100.5; .*percentage"),
        ({"best": {**RESULT.best, "loss": "x"}}, "best.loss in result.json is 'x'; .*a number"),
        ({"teacher_score": {"top1": None}}, "teacher_score.top1 in result.json is None"),
        ({"teacher_score": {"ece": 101.0}}, "teacher_score.ece in result.json is 101.0"),
        ({"teacher_score": "good"}, "teacher_score in result.json is 'good'; it must be scores"),
        ({"best_epoch": None}, "best_epoch in result.json is None"),
        ({"train_images": None}, "train_images in result.json is None; it must be a number"),
        ({"environment": []}, "has no environment"),
    ],
)
def test_a_record_that_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        Result.read(spoil(tmp_path, **changes))


def test_a_better_that_is_neither_is_refused(tmp_path):
    metrics = asdict(RESULT)["metrics"]
    metrics["top1"]["better"] = "bigger"
    with pytest.raises(UserError, match=r"better of metric top1 .* is 'bigger'; .*higher \| lower"):
        Result.read(spoil(tmp_path, metrics=metrics))


def test_a_record_that_lost_a_field_is_refused(tmp_path):
    value = asdict(RESULT)
    del value["student"]
    (tmp_path / "result.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="lacks student"):
        Result.read(tmp_path)


@pytest.mark.parametrize("method", ["AB", "DML"])
def test_a_record_of_schema_1_is_read_as_it_was_meant(method):
    (path,) = SCHEMA_1.glob(f"old_{method}-*/seed0")
    written = json.loads((path / "result.json").read_text())
    assert "schema" not in written and "epoch" in written["best"]
    read = Result.read(path)
    assert (read.method, read.metrics) == (method, ACCURACIES)
    assert read.last == written["last"] and read.teacher_score == written["teacher_score"]
    assert read.best[HEADLINE] == written["best"]["top1"]
    assert read.best_epoch == written["best"]["epoch"] and "epoch" not in read.best
    assert read.identity["DISTILLER.TYPE"] == method
    first = {"AB": "AB.TEMPERATURE", "DML": "DML.T"}[method]
    assert written["identity"][first] == read.identity[f"{method}.TAU"]
    assert first not in read.identity


def test_run_folders_of_schema_1_are_read():
    runs, rejected = read_runs([SCHEMA_1])
    assert rejected == [] and [run.method for run in runs] == ["AB", "DML"]
    ab, dml = runs
    # three epochs of its first phase, which scores nothing, and three that are scored
    assert (ab.epochs_done, [epoch for epoch, _ in ab.curve]) == (6, [4, 5, 6])
    assert (dml.epochs_done, dml.curve[-1][1]) == (3, dml.result.last["top1"])


def test_a_folder_of_schema_1_is_the_folder_that_this_version_would_write():
    """Its name is a hash of what decides the run, by the names that keys had first; what decides
    nothing counts no more, but the folder is found.
    """
    place = ["LOG.PREFIX", str(SCHEMA_1.parent), "EXPERIMENT.PROJECT", SCHEMA_1.name]
    for path in SCHEMA_1.glob("old_*/seed0"):
        cfg = load_config(path / "config.yaml", place)
        held = current_names(json.loads((path / "identity.json").read_text()))
        folder = RunFolder(cfg, {k: v for k, v in held.items() if k not in idle_keys()})
        assert folder.path == path
        folder.check(resume=True)  # it is this run


def test_the_names_of_schema_1_are_those_that_methods_declare():
    assert SCHEMA_1_NAMES == renamed_keys()
    if_trained_there = todays({"SOLVER.TRAINER": "stages", "DML.T": 2.0, "X": 1})
    assert if_trained_there == {"DML.TAU": 2.0, "X": 1}


@pytest.mark.parametrize("trainer", ["dot", "crd_dot"])
def test_dot_in_an_earlier_identity_is_the_optimiser(trainer):
    held = {"SOLVER.TRAINER": trainer, "SOLVER.DOT.DELTA": 0.05}
    today = {"SOLVER.OPTIMIZER": "dot", "SOLVER.DOT.DELTA": 0.05}
    assert todays(held) == today == todays_identity(held) == todays(today)
    assert todays({**held, "SOLVER.TRAINER": "base"}) == {}


def test_the_idle_keys_of_identities_are_those_that_are_declared():
    assert {*IDLE, TRAINER, DELTA} == {key for key in idle_keys() if not key.startswith("LOG.")}


def test_the_record_is_frozen():
    with pytest.raises(AttributeError):
        RESULT.seed = 1
    assert replace(RESULT, seed=1).seed == 1

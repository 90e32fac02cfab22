"""Trackers follow a run, go on where it goes on, and can neither stop, slow nor change it."""

import json
import time
import warnings
from threading import Event

import pytest
from support.tiny import (
    assert_same_run,
    result,
    save_teacher,
    tiny_config,
    train_until_killed,
)
from support.trackers import config

from sdkd_plugin.config import load_config
from sdkd_plugin.engine import trackers as module
from sdkd_plugin.engine.lockstep import train_together
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.tracker_kinds import KINDS, Tool, chosen_kinds
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.folder import RunFolder


class Told(Tool):
    """A tool that keeps what it is told, for all runs."""

    runs: list["Told"] = []

    def __init__(self, about, run_id):
        self.run_id = run_id or f"run{len(self.runs)}"
        self.resumed = run_id is not None
        self.about, self.rows, self.end, self.finished = about, [], None, False
        self.runs.append(self)

    def log(self, values, step):
        self.rows.append((step, values))

    def conclude(self, result, curves):
        self.end = (result, curves)

    def finish(self):
        self.finished = True


@pytest.fixture
def told(monkeypatch):
    """`Told` in wandb's place."""
    monkeypatch.setitem(KINDS, "wandb", Told)
    monkeypatch.setattr("sdkd_plugin.engine.tracker_kinds.find_spec", lambda name: True)
    monkeypatch.setattr(Told, "runs", [])
    return Told.runs


def test_a_tracker_is_told_config_epochs_result_and_curves(told, tmp_path):
    folder = train(config(tmp_path, ["wandb"], **{"EXPERIMENT.PROJECT": "a/b"}))
    (run,) = told
    assert run.about["config"]["SOLVER.EPOCHS"] == 2 and run.about["project"] == "a-b"
    assert run.about["config"]["SOLVER.LR_DECAY_STAGES"] == "[2]"
    assert [step for step, _ in run.rows] == [1, 2]
    assert all("phase" not in row and row["test_top1"] >= 0 for _, row in run.rows)
    numbers, curves = run.end
    record = result(folder.path)
    assert numbers["last_top1"] == record["last"]["top1"] == run.rows[-1][1]["test_top1"]
    assert numbers["best_ece"] == record["best"]["ece"]
    assert curves is None or curves.startswith(b"\x89PNG")
    assert run.finished


@pytest.mark.parametrize("steps", [1, 4])
def test_a_resumed_run_goes_on_in_the_same_run_of_the_tool(steps, told, tmp_path):
    """Three steps an epoch: killed in the first and in the second."""
    cfg = config(tmp_path, ["wandb"])
    train_until_killed(cfg, steps)
    train(cfg, resume=True)
    first, second = told
    assert second.run_id == first.run_id and second.resumed
    assert [step for run in told for step, _ in run.rows] == [1, 2]


def test_an_epoch_that_nobody_told_is_told_later(told, tmp_path):
    cfg = config(tmp_path, ["wandb"])
    train_until_killed(tiny_config(tmp_path, {"LOG.TRACKERS": [], "SOLVER.EPOCHS": 2}), 4)
    assert not told
    train(cfg, resume=True)
    assert [step for step, _ in told[0].rows] == [1, 2]


def test_an_epoch_that_is_trained_again_is_told_again(told, tmp_path):
    """As after a damaged `latest`: the tool knows an epoch more than the run."""
    cfg = config(tmp_path, ["wandb"])
    train_until_killed(cfg, 4)
    (file,) = tmp_path.rglob("trackers/wandb.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "epochs": 2}))
    train(cfg, resume=True)
    assert [[step for step, _ in run.rows] for run in told] == [[1], [2]]


def test_what_a_killed_process_took_with_it_is_told_again(told, tmp_path, monkeypatch):
    """A tool that keeps nothing for an hour, by the file that the run's folder has after a kill."""
    monkeypatch.setattr(Told, "delay", 3600.0)
    cfg = config(tmp_path, ["wandb"])
    left = []

    class Dies(Told):
        def finish(self):
            (file,) = tmp_path.rglob("trackers/wandb.json")
            left.append(json.loads(file.read_text()))
            super().finish()

    monkeypatch.setitem(KINDS, "wandb", Dies)
    train_until_killed(cfg, 4)
    (file,) = tmp_path.rglob("trackers/wandb.json")
    assert json.loads(file.read_text()) == {"id": "run0", "epochs": 1}  # it ended in order
    assert left == [{"id": "run0", "epochs": 0}]
    file.write_text(json.dumps(left[0]))
    train(cfg, resume=True)
    assert [[step for step, _ in run.rows] for run in told] == [[1], [1, 2]]


def test_the_bits_are_the_same_with_and_without(told, tmp_path):
    taught = {"DISTILLER.TYPE": "SDKD", "DISTILLER.TEACHER_CKPT": save_teacher(tmp_path / "t")}
    one = train(config(tmp_path / "one", ["tensorboard", "wandb"], **taught))
    two = train(config(tmp_path / "two", [], **taught))
    assert one.path.parent.name == two.path.parent.name and one.identity == two.identity
    assert_same_run(one.path, two.path)
    assert (one.path / "train.events").exists() and not (two.path / "train.events").exists()


def fails(when: str):
    class Fails(Told):
        def __init__(self, about, run_id):
            if when == "start":
                raise ConnectionError("no\nroute \x1b[2J")
            super().__init__(about, run_id)

        def log(self, values, step):
            if when == "log":
                raise SystemExit("gone")
            super().log(values, step)

        def finish(self):
            if when == "finish":
                raise RuntimeError("full")

    return Fails


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ("start", "ConnectionError: no route \\x1b[2J"),
        ("log", "SystemExit: gone"),
        ("finish", "RuntimeError: full"),
    ],
)
def test_a_tracker_that_fails_says_so_once_and_the_run_is_the_same(
    when, why, told, tmp_path, monkeypatch
):
    monkeypatch.setitem(KINDS, "wandb", fails(when))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        one = train(config(tmp_path / "one", ["wandb"]))
    (warning,) = [str(w.message) for w in seen if "tracker" in str(w.message)]
    assert warning.startswith("tracker wandb is left out from here on") and warning.endswith(why)
    two = train(config(tmp_path / "two", []))
    assert_same_run(one.path, two.path)


@pytest.mark.parametrize("when", ["start", "log"])
def test_a_tracker_that_hangs_is_not_waited_for(when, told, tmp_path, monkeypatch):
    class Hangs(Told):
        def __init__(self, about, run_id):
            if when == "start":
                time.sleep(600)
            super().__init__(about, run_id)

        def log(self, values, step):
            time.sleep(600)

    monkeypatch.setitem(KINDS, "wandb", Hangs)
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    began = time.monotonic()
    with pytest.warns(UserWarning, match="tracker wandb is left out .*has not ended after 0.2 s"):
        folder = train(config(tmp_path, ["wandb"]))
    assert result(folder.path)["last"]["top1"] >= 0
    assert time.monotonic() - began < 60


def test_a_tracker_that_does_not_keep_up_is_left_out(told, tmp_path, monkeypatch):
    begun, ends = Event(), Event()

    class Slow(Told):
        def __init__(self, about, run_id):
            begun.set()
            ends.wait(600)
            raise OSError("the tool gave up")

    monkeypatch.setitem(KINDS, "wandb", Slow)
    monkeypatch.setattr(module, "WAITING", 2)
    tracker = module.Tracker("wandb", tmp_path, {}, 0)
    assert begun.wait(60)
    tracker.tell(lambda tool: None)
    tracker.tell(lambda tool: None)
    with pytest.warns(UserWarning, match="it is 2 steps behind"):
        tracker.tell(lambda tool: None)
    assert tracker.failed

    with warnings.catch_warnings(record=True) as said:  # it was told once
        warnings.simplefilter("always")
        ends.set()
        tracker.close(60)
    assert not said


def test_runs_in_lockstep_are_runs_of_the_tool_each(told, tmp_path):
    shared = {"DISTILLER.TYPE": "KD", "DISTILLER.TEACHER_CKPT": save_teacher(tmp_path / "t")}
    cfgs = [config(tmp_path, ["wandb"], **shared, **{"KD.TEMPERATURE": tau}) for tau in (2.0, 4.0)]
    assert all(error is None for _, error in train_together(cfgs))
    assert len({run.run_id for run in told}) == 2
    assert [len(run.rows) for run in told] == [2, 2] and all(run.finished for run in told)


def test_what_is_not_installed_is_named_but_not_where_mdistillers_yaml_asks(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sdkd_plugin.engine.tracker_kinds.find_spec", lambda name: None)
    with pytest.raises(UserError, match="LOG.TRACKERS names mlflow, which is not installed.*pip"):
        chosen_kinds(config(tmp_path, ["mlflow"]))
    yaml = tmp_path / "theirs.yaml"
    yaml.write_text("LOG: {WANDB: true}")
    assert chosen_kinds(load_config(yaml)) == ()
    assert "LOG.WANDB is True but wandb is not installed" in capsys.readouterr().out


def test_mdistillers_key_means_the_wandb_tracker(tmp_path, monkeypatch):
    monkeypatch.setattr("sdkd_plugin.engine.tracker_kinds.find_spec", lambda name: True)
    assert chosen_kinds(load_config(None)) == ()
    assert chosen_kinds(load_config(None, ["LOG.WANDB", "True"])) == ("wandb",)
    both = ["LOG.WANDB", "True", "LOG.TRACKERS", "[mlflow, wandb]"]
    assert chosen_kinds(load_config(None, both)) == ("mlflow", "wandb")


def test_an_earlier_versions_run_did_not_mean_it(tmp_path):
    """Its config.yaml holds the default of then."""
    (tmp_path / "config.yaml").write_text("LOG: {WANDB: true, PREFIX: x}")
    assert load_config(tmp_path / "config.yaml").LOG.WANDB
    (tmp_path / "identity.json").write_text("{}")
    assert not load_config(tmp_path / "config.yaml").LOG.WANDB
    (tmp_path / "config.yaml").write_text("LOG: {WANDB: true, TRACKERS: []}")
    assert load_config(tmp_path / "config.yaml").LOG.WANDB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mlfow]", "LOG.TRACKERS is ['mlfow']; allowed: a list of tensorboard, wandb, mlflow"),
        ("[wandb, wandb]", "each at most once"),
        ("wandb", "LOG.TRACKERS in the command line is 'wandb' (str); allowed: list"),
        ("[1]", "LOG.TRACKERS is [1]; allowed"),
    ],
)
def test_what_is_no_list_of_trackers_is_refused(text, message):
    with pytest.raises(UserError) as told:
        load_config(None, ["LOG.TRACKERS", text])
    assert message in str(told.value)


@pytest.mark.parametrize("names", [[], ["mlflow"], ["tensorboard", "trackio"]])
def test_they_are_no_part_of_a_runs_identity(names, tmp_path):
    from sdkd_plugin.data.dataset import load_dataset

    usual = tiny_config(tmp_path)
    data = load_dataset(usual)
    other = tiny_config(tmp_path, {"LOG.TRACKERS": names, "LOG.WANDB": True})
    assert RunFolder.of(other, data).path == RunFolder.of(usual, data).path

"""The real tools, offline, and a real server on this machine."""

import json
import sqlite3
import warnings
from pathlib import Path

import pytest
from support.tiny import BASE, assert_same_run, result, train_until_killed
from support.trackers import config, mlflow_server

from sdkd_plugin.engine import trackers as module
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.tracker_kinds import KINDS

REAL = sorted(KINDS)


@pytest.fixture
def patient(monkeypatch):
    """A real tool takes seconds to begin, which a run that ends after one does not wait for."""
    monkeypatch.setattr(module, "IMPATIENCE", 120.0)
    monkeypatch.setattr(module, "PATIENCE", 120.0)


def killed_and_resumed(tmp_path: Path, name: str) -> Path:
    pytest.importorskip(name, reason="needs the extra trackers")
    cfg = config(tmp_path, [name])
    train_until_killed(cfg, 4)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="tracker")
        return train(cfg, resume=True).path


@pytest.mark.slow
def test_mlflow_has_one_run_with_every_epoch(patient, tmp_path):
    folder = killed_and_resumed(tmp_path, "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "distill"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["SOLVER.EPOCHS"] == "2"
    top1 = client.get_metric_history(run.info.run_id, "test_top1")
    assert [metric.step for metric in top1] == [1, 2]
    assert run.data.metrics["last_top1"] == result(folder)["last"]["top1"]
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    assert "curves.png" in [f.path for f in client.list_artifacts(run.info.run_id)]


@pytest.mark.slow
def test_two_runs_of_a_process_go_to_the_store_of_their_own_prefix(patient, tmp_path):
    pytest.importorskip("mlflow", reason="needs the extra trackers")
    for prefix in (tmp_path / "a", tmp_path / "b"):
        train(config(tmp_path, ["mlflow"], **{"LOG.PREFIX": prefix}))
        rows = sqlite3.connect(prefix / "mlflow.db").execute("select run_uuid from runs")
        assert len(list(rows)) == 1


@pytest.mark.slow
def test_wandb_offline_has_the_same_id_after_resuming(patient, tmp_path):
    killed_and_resumed(tmp_path, "wandb")
    offline = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(offline) == 2 and len({path.name.rsplit("-", 1)[1] for path in offline}) == 1
    assert all(list(path.glob("*.wandb")) for path in offline)


@pytest.mark.slow
def test_trackio_has_one_run_with_every_epoch(patient, tmp_path):
    folder = killed_and_resumed(tmp_path, "trackio")
    (database,) = (tmp_path / "trackio").glob("*.db")
    rows = sqlite3.connect(database).execute("select run_name, step, metrics from metrics")
    logged = [(name, step, json.loads(values)) for name, step, values in rows]
    assert len({name for name, _, _ in logged}) == 1
    assert [step for _, step, values in logged if "test_top1" in values] == [1, 2]
    (end,) = [values for _, _, values in logged if "last_top1" in values]
    assert end["last_top1"] == result(folder)["last"]["top1"]


@pytest.mark.slow
def test_a_real_mlflow_server_gets_it_and_its_death_stops_nothing(patient, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs the extra trackers")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with mlflow_server(tmp_path) as (uri, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        folder = train(config(tmp_path, ["mlflow"], **{"LOG.PREFIX": tmp_path / "a"}))
        from mlflow.tracking import MlflowClient

        client = MlflowClient(uri)
        (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        assert run.data.metrics["last_top1"] == result(folder.path)["last"]["top1"]
    with pytest.warns(UserWarning, match="tracker mlflow is left out"):
        dead = train(config(tmp_path, ["mlflow"], **{"LOG.PREFIX": tmp_path / "b"}))
    assert_same_run(dead.path, folder.path)


def test_base_is_the_tiny_run():
    assert BASE["DATASET.TYPE"] == "digits" and REAL == ["mlflow", "trackio", "wandb"]

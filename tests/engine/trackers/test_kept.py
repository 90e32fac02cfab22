"""A run that four real tools follow is killed and goes on: each holds what metrics.csv says, an
epoch or so twice.
"""

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.tiny import result
from support.trackers import config, mlflow_server
from support.wandb_file import records

from sdkd_plugin.settings import flatten

pytestmark = pytest.mark.slow

EPOCHS = 60
TOOLS = ("wandb", "mlflow", "trackio")
# Long enough for the tools to begin, without work for the processor.
SLOW = """
import time
from sdkd_plugin.engine.trainer import Trainer
whole = Trainer.train_epoch
def slow(self, *given):
    time.sleep(0.7)
    return whole(self, *given)
Trainer.train_epoch = slow
"""


def command(yaml: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "sdkd_plugin", "train", "--cfg", str(yaml), "--resume", *more]


def told(prefix: Path) -> dict[str, int]:
    """The epochs that each tool knows by its file."""
    files = prefix.rglob("trackers/*.json")
    return {path.stem: json.loads(path.read_text())["epochs"] for path in files}


def wait_until(process: subprocess.Popen, ready) -> None:
    until = time.monotonic() + 600
    while not ready():
        assert process.poll() is None, "it ended before the tools had begun"
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("mlflow", reason="needs the extra trackers")
    with mlflow_server(tmp_path_factory.mktemp("server")) as (uri, _):
        yield uri


@pytest.fixture(scope="module")
def run(server, tmp_path_factory) -> Path:
    """The folder of a run that was killed when each tool knew two epochs of it."""
    for name in ("wandb", "trackio"):
        if find_spec(name) is None:  # not imported: trackio reads TRACKIO_DIR but once
            pytest.skip("needs the extra trackers")
    folder = tmp_path_factory.mktemp("run")
    (folder / "slow.py").write_text(SLOW)
    yaml = folder / "run.yaml"
    prefix = folder / "out"
    changes = {"SOLVER.EPOCHS": EPOCHS, "LOG.PREFIX": prefix}
    yaml.write_text(config(folder, ["tensorboard", *TOOLS], **changes).dump())
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "TRACKIO_"))}
    environment = {**clean, "MLFLOW_TRACKING_URI": server}
    first = subprocess.Popen(command(yaml, "--import", str(folder / "slow.py")), env=environment)
    wait_until(first, lambda: [n >= 2 for n in told(prefix).values()] == [True] * len(TOOLS))
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = subprocess.run(command(yaml), env=environment, capture_output=True, text=True)
    assert second.returncode == 0 and "left out" not in second.stderr, second.stderr
    (path,) = prefix.rglob("result.json")
    return path.parent


def rows(run: Path) -> list[dict[str, float]]:
    """metrics.csv, an epoch a row, numbers alone."""
    found = list(csv.DictReader((run / "metrics.csv").open()))
    assert len(found) == EPOCHS
    return [{k: float(v) for k, v in row.items() if k != "phase" and v} for row in found]


def outcome(run: Path) -> dict[str, float]:
    """What is shown of result.json."""
    found = result(run)
    return {f"{kind}_{name}": v for kind in ("last", "best") for name, v in found[kind].items()}


def same(found: dict[int, dict[str, float]], run: Path, rel: float = 0) -> None:
    """Each step holds its epoch's numbers, and no step is missing."""
    for epoch, row in enumerate(rows(run), 1):
        assert found[epoch] == pytest.approx(row, rel=rel, abs=0), epoch
    assert sorted(found) == list(range(1, EPOCHS + 1))


def plain(run: Path) -> dict[str, Any]:
    return dict(flatten(result(run)["config"]))


def values_of(items) -> dict[str, Any]:
    """wandb's pairs of a name and json."""
    return {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}


def test_tensorboard(run):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    events = accumulator.EventAccumulator(str(run / "train.events")).Reload()
    steps: dict[int, dict[str, float]] = {}
    for tag in rows(run)[0]:
        for event in events.Scalars(tag):
            assert tag not in steps.setdefault(event.step, {})
            steps[event.step][tag] = event.value
    same(steps, run, rel=1e-6)  # TensorBoard has single precision
    for tag, value in outcome(run).items():
        (event,) = events.Scalars(tag)
        assert (event.step, event.value) == (EPOCHS, pytest.approx(value, rel=1e-6))
    (curves,) = events.Images("curves")
    assert curves.encoded_image_string.startswith(b"\x89PNG")

    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    held = HParamsPluginData.FromString(content).session_start_info.hparams
    assert held.keys() == plain(run).keys()
    assert held["SOLVER.EPOCHS"].number_value == EPOCHS
    assert held["DISTILLER.STUDENT"].string_value == "resnet8"


def test_wandb(run):
    files = sorted((run.parents[2] / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.stem for file in files}) == 1
    steps: dict[int, dict[str, float]] = {}
    summary: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for record in (record for file in files for record in records(file)):
        items = values_of(record.history.item)
        if "epoch" in items:
            values = {key: items[key] for key in rows(run)[0]}
            assert steps.setdefault(record.history.step.num, values) == values
        summary |= values_of(record.summary.update)
        settings |= values_of(record.run.config.update)
    same(steps, run)
    assert outcome(run).items() <= summary.items() and summary["curves.count"] == 1
    assert plain(run).keys() <= settings.keys() and settings["SOLVER.EPOCHS"] == EPOCHS
    assert list(files[-1].parent.rglob("curves*.png"))


def test_mlflow(run, server):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server)
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    steps: dict[int, dict[str, float]] = {}
    for name in rows(run)[0]:
        for metric in client.get_metric_history(found.info.run_id, name):
            of_step = steps.setdefault(metric.step, {})
            assert of_step.setdefault(name, metric.value) == metric.value
    same(steps, run)
    assert outcome(run).items() <= found.data.metrics.items()
    assert found.data.params.keys() >= plain(run).keys()
    assert found.data.params["SOLVER.EPOCHS"] == str(EPOCHS)
    assert found.info.status == "FINISHED"
    assert "curves.png" in [file.path for file in client.list_artifacts(found.info.run_id)]


def test_trackio(run):
    (database,) = (run.parents[2] / "trackio").glob("*.db")
    logged = sqlite3.connect(database).execute("select run_name, step, metrics from metrics")
    steps: dict[int, dict[str, float]] = {}
    names, end = set(), {}
    for name, step, text in logged:
        names.add(name)
        values = json.loads(text)
        if "epoch" in values:
            assert steps.setdefault(step, values) == values
        else:
            end |= values
    same(steps, run)
    assert len(names) == 1 and outcome(run).items() <= end.items() and "curves" in end
    (text,) = next(sqlite3.connect(database).execute("select config from configs"))
    assert plain(run).keys() <= json.loads(text).keys()


def test_a_server_that_dies_in_the_middle_is_told_once_and_stops_nothing(tmp_path):
    pytest.importorskip("mlflow", reason="needs the extra trackers")
    (tmp_path / "slow.py").write_text(SLOW)
    yaml = tmp_path / "run.yaml"
    changes = {"SOLVER.EPOCHS": EPOCHS, "LOG.PREFIX": tmp_path / "out"}
    yaml.write_text(config(tmp_path, ["mlflow"], **changes).dump())
    with mlflow_server(tmp_path) as (uri, process):
        training = subprocess.Popen(
            command(yaml, "--import", str(tmp_path / "slow.py")),
            env={**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(training, lambda: told(tmp_path / "out").get("mlflow", 0) >= 2)
        os.killpg(process.pid, signal.SIGKILL)
        _, said = training.communicate(timeout=300)
    assert training.returncode == 0
    (line,) = [line for line in said.splitlines() if "tracker" in line]
    assert line.startswith("warning: tracker mlflow is left out from here on")
    (path,) = (tmp_path / "out").rglob("result.json")
    assert len(rows(path.parent)) == EPOCHS

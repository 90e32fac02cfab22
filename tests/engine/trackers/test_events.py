"""TensorBoard has a run's config, epochs, result and curves, whatever became of its files."""

import shutil
import struct
import warnings
from pathlib import Path

import pytest
from support.tiny import assert_same_run, metrics, result, tiny_config, train_until_killed
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from sdkd_plugin.engine.run import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return train(tiny_config(tmp_path_factory.mktemp("runs"))).path


def files(folder: Path) -> list[Path]:
    """TensorBoard's files in the order in which it reads them."""
    return sorted(folder.glob("train.events/events.out.tfevents.*"))


def events(folder: Path) -> list[Event]:
    """What TensorBoard would read: records of length (8 bytes), checksum (4), message, checksum."""
    found = []
    for path in files(folder):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def shown(folder: Path) -> dict[tuple[int, str], float]:
    """What is left of the scalars, by (step, name), after each START has taken away what it
    replaces.
    """
    left: dict[tuple[int, str], float] = {}
    for event in events(folder):
        if event.HasField("session_log"):
            left = {key: value for key, value in left.items() if key[0] < event.step}
        for value in event.summary.value:
            if value.HasField("simple_value"):
                left[event.step, value.tag] = value.simple_value
    return left


def assert_whole(folder: Path) -> None:
    found = shown(folder)
    rows = metrics(folder)
    for step, row in enumerate(rows, 1):
        for key in row.keys() - {"phase"}:
            assert found[step, key] == pytest.approx(float(row[key]), rel=1e-6)
    assert {step for step, _ in found} == set(range(1, len(rows) + 1))


def test_it_gets_every_number_of_every_epoch(finished):
    assert_whole(finished)
    assert [event.step for event in events(finished) if event.HasField("session_log")] == [1]


def test_it_gets_config_result_and_curves(finished):
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    values = {v.tag: (e.step, v) for e in events(finished) for v in e.summary.value}
    content = values["_hparams_/session_start_info"][1].metadata.plugin_data.content
    held = HParamsPluginData.FromString(content).session_start_info.hparams
    assert held["SOLVER.EPOCHS"].number_value == 3
    assert held["SOLVER.LR_DECAY_STAGES"].string_value == "[2]"
    assert held["DATASET.TYPE"].string_value == "digits"
    assert held["LOG.WANDB"].WhichOneof("kind") == "bool_value"
    for kind in ("last", "best"):
        for name, value in result(finished)[kind].items():
            step, found = values[f"{kind}_{name}"]
            assert (step, found.simple_value) == (3, pytest.approx(value, rel=1e-6))
    step, curves = values["curves"]
    assert step == 3 and curves.image.encoded_image_string.startswith(b"\x89PNG")
    assert curves.image.width > curves.image.height > 100


def test_epochs_that_are_trained_again_are_told_again(tmp_path):
    cfg = tiny_config(tmp_path)
    train_until_killed(cfg, steps=7)
    folder = train(cfg, resume=True).path
    assert [event.step for event in events(folder) if event.HasField("session_log")] == [1, 1]
    assert_whole(folder)


@pytest.mark.parametrize("lost", ["files", "never told"])
def test_epochs_that_no_file_holds_any_more_are_told_again(lost, tmp_path):
    cfg = tiny_config(tmp_path)
    told = [] if lost == "never told" else ["tensorboard"]
    train_until_killed(tiny_config(tmp_path, {"LOG.TRACKERS": told}), steps=7)
    for folder in tmp_path.rglob("train.events"):
        shutil.rmtree(folder)
    assert_whole(train(cfg, resume=True).path)


def test_files_that_cannot_be_written_are_told_once_and_the_run_is_the_same(finished, tmp_path):
    cfg = tiny_config(tmp_path)
    train_until_killed(cfg, steps=1)
    (folder,) = [path.parent for path in tmp_path.rglob("identity.json")]
    (folder / "train.events").write_text("in the way")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train(cfg, resume=True)
    (warning,) = [str(w.message) for w in seen if "tracker" in str(w.message)]
    assert warning.startswith("tracker tensorboard is left out from here on, the training goes on")
    assert_same_run(folder, finished)

"""The card of a trained student: every number is the records', and nobody's name steers a page."""

import json
import shutil

import pytest
import yaml
from support.tiny import BASE, save_teacher, words

from sdkd_plugin.__main__ import main
from sdkd_plugin.config import load_config
from sdkd_plugin.engine.run import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of KD; the first run's folder."""
    folder = tmp_path_factory.mktemp("runs")
    teacher = save_teacher(folder / "teacher")
    taught = {"DISTILLER.TYPE": "KD", "DISTILLER.TEACHER_CKPT": teacher, "SOLVER.EPOCHS": 1}
    shared = {**BASE, **taught, "LOG.PREFIX": folder / "out"}
    paths = [
        train(load_config(None, words({**shared, "SOLVER.SEED": seed}))).path for seed in (0, 1, 2)
    ]
    return paths[0]


def change(path, **last) -> None:
    """Gives a run other numbers than it measured, in its record and its metrics alike."""
    record = json.loads((path / "result.json").read_text())
    rows = (path / "metrics.csv").read_text().splitlines()
    head, values = rows[0].split(","), rows[-1].split(",")
    for name, value in last.items():
        record["last"][name] = value
        values[head.index(f"test_{name}")] = repr(value)
    (path / "result.json").write_text(json.dumps(record))
    (path / "metrics.csv").write_text("\n".join([*rows[:-1], ",".join(values)]) + "\n")


def edit(path, *keys, value) -> None:
    """Gives a run's record another value at a path of keys."""
    record = place = json.loads((path / "result.json").read_text())
    for key in keys[:-1]:
        place = place[key]
    assert keys[-1] in place
    place[keys[-1]] = value
    (path / "result.json").write_text(json.dumps(record))


def card(path, capsys) -> str:
    assert main(["card", str(path)]) == 0
    return capsys.readouterr().out


def test_accuracy_and_calibration_are_means_over_the_seeds(runs, tmp_path, capsys):
    copied = shutil.copytree(runs.parent, tmp_path / "copy")
    for seed, (top1, ece) in enumerate(((60.0, 4.0), (62.0, 5.0), (67.0, 9.0))):
        change(copied / f"seed{seed}", top1=top1, ece=ece)
    said = card(copied / "seed1", capsys)
    # by hand: mean 63 and 6, sample deviations sqrt(13) and sqrt(7)
    assert "| Top-1 accuracy (%) | 63.00 ± 3.61 | 3 | 62.00 |" in said
    assert "| Expected calibration error (%) | 6.00 ± 2.65 | 3 | 5.00 |" in said
    assert "differs from its accuracy by 5.00 points" in said
    assert "tells nothing of the spread" not in said

    shutil.rmtree(copied / "seed0")
    (copied / "seed2" / "result.json").unlink()  # unfinished: it does not count
    said = card(copied / "seed1", capsys)
    assert "| Top-1 accuracy (%) | 62.00 | 1 | 62.00 |" in said
    assert "One seed: it tells nothing of the spread" in said


@pytest.mark.parametrize("key", ["teacher", "data"])
def test_a_seed_of_another_teacher_or_of_other_images_does_not_count(runs, tmp_path, capsys, key):
    """Which folder a run lies in does not tell what its files held."""
    copied = shutil.copytree(runs.parent, tmp_path / "copy")
    identity = json.loads((copied / "seed2" / "identity.json").read_text())
    identity[key] = "0" * 16
    (copied / "seed2" / "identity.json").write_text(json.dumps(identity))
    edit(copied / "seed2", "identity", key, value="0" * 16)
    said = card(copied / "seed0", capsys)
    assert "mean over 2 seeds" in said and "mean over 3 seeds" not in said


def test_it_says_what_weakens_it(runs, tmp_path, capsys):
    weak = ("held out of training", "trained together", "with uncommitted changes")
    edits = (
        (("evaluates",), "val"),
        (("group_size",), 8),
        (("environment", "uncommitted_changes"), True),
    )
    copied = shutil.copytree(runs.parent, tmp_path / "copy") / "seed0"
    edit(copied, "environment", "uncommitted_changes", value=False)
    sound = card(copied, capsys)
    for keys, value in edits:
        edit(copied, *keys, value=value)
    said = card(copied, capsys)
    assert all(words_ in said and words_ not in sound for words_ in weak)
    assert "its share of 8 runs trained together" in said and "the held-out images" in said


def test_it_says_what_whom_and_how(runs, capsys):
    said = card(runs, capsys)
    record = json.loads((runs / "result.json").read_text())
    assert "# resnet8 on digits, taught by resnet14 with KD" in said
    taught = record["teacher_score"]["top1"]
    assert f"| {taught:.2f} |" in said
    for words_ in (
        "| parameters | 78,042 |",
        "| output | 10 logits, in this order |",
        "| classes | 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 |",
        "| SOLVER.EPOCHS | 1 |",
        "| KD.TEMPERATURE | 4.0 |",
        f"SHA-256 {record['identity']['teacher']}...",
        "143 training images",
        "MIT licence",
        "no licence until whoever publishes them gives one",
        "CC BY 4.0",
    ):
        assert words_ in said, words_


def test_its_front_matter_is_what_model_hubs_read(runs, capsys):
    said = card(runs, capsys)
    front = yaml.safe_load(said.split("---")[1])
    (model,) = front["model-index"]
    (result,) = model["results"]
    (metric,) = result["metrics"]
    record = json.loads((runs / "result.json").read_text())
    assert metric["type"] == "accuracy" and metric["name"].endswith("mean over 3 seeds")
    assert 0 < metric["value"] < 1 and result["dataset"]["name"] == record["dataset"]
    assert "knowledge-distillation" in front["tags"] and "license" not in front


def test_it_is_written_where_it_is_wanted(runs, tmp_path, capsys):
    printed = card(runs, capsys)
    assert main(["card", str(runs), "--output", str(tmp_path / "README.md")]) == 0
    assert (tmp_path / "README.md").read_text() == printed


def test_names_from_anybody_steer_no_page(runs, tmp_path, capsys):
    copied = shutil.copytree(runs.parent, tmp_path / "copy") / "seed0"
    edit(copied, "environment", "device", value="<script>|\x1b[2J**x**")
    said = card(copied, capsys)
    assert "\\<script>\\|\\\\x1b[2J\\*\\*x\\*\\*" in said and "\x1b" not in said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "result.json").unlink(), "is unfinished, 1 epochs done"),
        (lambda path: (path / "result.json").write_text("{"), "no valid json"),
        (lambda path: (path / "student_latest").write_bytes(b"x"), "student_latest is refused"),
        (lambda path: (path / "student_latest").unlink(), "student_latest does not exist"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_what_cannot_be_described_is_one_line(runs, tmp_path, capsys, spoil, message):
    copied = shutil.copytree(runs.parent, tmp_path / "copy") / "seed0"
    spoil(copied)
    assert main(["card", str(copied)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_a_folder_of_runs_is_none(runs, capsys):
    assert main(["card", str(runs.parent)]) == 2
    assert f"holds runs but is none; give one, such as {runs}" in capsys.readouterr().err

"""`align` on small real runs: handwritten digits, untrained and trained teachers."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from support.tiny import save_teacher, words

from sdkd_plugin.__main__ import main
from sdkd_plugin.config import configs_folder
from sdkd_plugin.errors import UserError
from sdkd_plugin.studies import align
from sdkd_plugin.studies.align import align_teachers, sweep_tree
from sdkd_plugin.studies.file import read_study
from sdkd_plugin.studies.motivation import _published, _sources, teachers_grid

DIGITS = {
    "DATASET.TYPE": "digits",
    "DATASET.SUBSET": 0.1,
    "SOLVER.EPOCHS": 3,
    "SOLVER.SCHEDULE_EPOCHS": 240,
    "SOLVER.BATCH_SIZE": 16,
}
STUDY = {"teachers": ["resnet14", "resnet20"], "students": ["resnet8"], "seeds": [0, 1]}


def write_study(folder: Path, **changes) -> Path:
    path = folder / "study.yaml"
    own = {"LOG.PREFIX": str(folder / "runs"), **DIGITS}
    path.write_text(yaml.safe_dump({**STUDY, "overrides": own, **changes}))
    return path


def scaled_teacher(path: Path, scale: float) -> Path:
    """The same untrained network with `scale` times its logits: its temperature is known."""
    state = torch.load(save_teacher(path), weights_only=True)
    state["model"]["fc.weight"] *= scale
    state["model"]["fc.bias"] *= scale
    torch.save(state, path)
    return path


def test_a_teacher_with_three_times_the_logits_has_three_times_the_temperature(tmp_path):
    one = scaled_teacher(tmp_path / "one", 1.0)
    study = read_study(write_study(tmp_path, teachers={"resnet14": str(one), "resnet20": ""}))
    three = scaled_teacher(tmp_path / "three", 3.0)
    study.teachers.pop("resnet20")
    (reference,) = align_teachers(study, "reference")
    study.overrides["DISTILLER.TEACHER_CKPT"] = str(three)
    study.teachers["resnet14"] = ""
    _, curve = align._measure(study, "resnet14", "", False)
    taus = [root.tau for root in curve.reach(reference.loss)]
    assert any(tau == pytest.approx(3.0, rel=1e-4) for tau in taus)
    assert reference.tau == 1.0 and reference.loss_at_tau == reference.loss


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    """A study file, and the folder of its trained teachers and finished sweep."""
    folder = tmp_path_factory.mktemp("align")
    path = write_study(folder)
    assert main(["align", str(path), "--train-teacher"]) == 0
    sweep = folder / "runs" / "studies" / "study.yaml"
    assert main(["sweep", str(sweep)]) == 0
    return path, folder / "runs"


@pytest.mark.slow
def test_the_sweep_distils_at_each_teachers_temperature(finished):
    path, runs = finished
    tree = yaml.safe_load((runs / "studies" / "study.yaml").read_text())
    assert tree["methods"] == ["vanilla", "kd"] and tree["pairs"] == ["resnet14/resnet8"]
    kd = tree["variants"]["kd"]
    first, *_ = kd.values()
    assert first["DISTILLER.TEACHER"] == "resnet14" and first["KD.TEMPERATURE"] == 1.0
    identities = [p.read_text() for p in runs.rglob("identity.json")]
    for settings in kd.values():
        tau = settings["KD.TEMPERATURE"]
        taught = [
            text
            for text in identities
            if f'"KD.TEMPERATURE": {tau}' in text
            and f'"DISTILLER.TEACHER": "{settings["DISTILLER.TEACHER"]}"' in text
        ]
        assert len(taught) == 2  # seeds


@pytest.mark.slow
def test_the_table_has_every_student_and_teacher(finished, capsys):
    path, runs = finished
    capsys.readouterr()
    assert main(["align", str(path), "--train-teacher", "--format", "md", "--runs", str(runs)]) == 0
    shown = capsys.readouterr().out
    table = shown[shown.index("same students") :]
    rows = [line for line in table.splitlines() if line.startswith("| resnet8")]
    assert [row.split("|")[4].strip() for row in rows] == ["resnet14", "resnet20"]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert re.fullmatch(r"[\d.]+ ± [\d.]+ \(2\)", cells[1])  # the student alone
        assert cells[-1] == "" if cells[5] == "no root" else "(2)" in cells[-1]
    assert "published" not in table  # digits are not CIFAR-100


@pytest.mark.slow
def test_the_cross_entropy_at_tau_is_the_references(finished):
    path, _ = finished
    study = read_study(path)
    reference, other = align_teachers(study, "reference", train_teacher=True)
    if other.tau is None:
        pytest.fail("this study was chosen to have a root")
    assert other.loss_at_tau == pytest.approx(reference.loss, rel=1e-4)


def test_a_teacher_without_a_root_is_said_and_left_out(tmp_path):
    """An untrained teacher cannot have a trained one's cross entropy."""
    study = write_study(tmp_path)
    files = {"resnet14": save_teacher(tmp_path / "a"), "resnet20": tmp_path / "b"}
    save_teacher(files["resnet20"], "resnet20")
    reference = align_teachers(
        read_study(write_study(tmp_path, teachers={k: str(v) for k, v in files.items()})),
        "reference",
    )[0]
    lost = replace(reference, model="vgg13", roots=(), tau=None, loss_at_tau=None, branch="")
    grid = teachers_grid([reference, lost])
    assert [cell.text for cell in grid.rows[1]][3] == "no root"
    assert any("no temperature gives vgg13" in note for note in grid.notes)
    kd = sweep_tree(read_study(study), [reference, lost])["variants"]["kd"]
    assert [own["DISTILLER.TEACHER"] for own in kd.values()] == ["resnet14"]


def test_the_published_columns_say_which_epoch_they_are_of():
    assert _sources() == ["published: SDKD poster, first table; epoch: unknown"]


def test_the_posters_numbers_stand_beside(shared):
    path = shared / "published" / "cifar100_poster_motivation.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines):
        shown = [cell.text for cell in _published(row["teacher"], row["student"])]
        keys = ["student_acc", "student_ce", "teacher_acc", "tau", "teacher_ce_at_tau", "kd_acc"]
        assert shown == [row[key] for key in keys]


@pytest.mark.slow
def test_the_posters_table_is_printed_as_it_is(shared, capsys, finished):
    path, _ = finished
    capsys.readouterr()
    assert main(["align", str(path), "--train-teacher", "--poster", "--format", "csv"]) == 0
    shown = capsys.readouterr().out
    shown = shown[shown.index("student,top-1,CE") :].splitlines()
    printed = list(csv.reader(shown[:5]))[1:]
    path = shared / "published" / "cifar100_poster_motivation.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    expected = list(csv.reader(lines))[1:]
    assert printed == expected


def test_a_teachers_file_may_be_given_with_the_command(tmp_path, capsys):
    one, two = save_teacher(tmp_path / "one"), tmp_path / "two"
    save_teacher(two, "resnet20")
    path = write_study(tmp_path, teachers={"resnet14": "", "resnet20": str(one)})
    given = (f"resnet20={two}", f"resnet14={one}")
    assert read_study(path, files=given).teachers == {"resnet14": str(one), "resnet20": str(two)}
    for wrong, message in (
        ("resnet20", "--teacher resnet20 is not MODEL=FILE"),
        ("resnet8=x", "unknown teacher 'resnet8' in --teacher"),
        ("resnet14=nix", "resnet14 is 'nix', which is no file"),
    ):
        assert main(["align", str(path), "--teacher", wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": ["resnet14"]}, "allowed: a list of two models or more"),
        ({"teachers": ["resnet14", "resnet21"]}, "unknown model 'resnet21'"),
        ({"teachers": {"resnet14": "nix", "resnet20": ""}}, "resnet14 is 'nix', which is no file"),
        ({"students": []}, "has no students"),
        ({"students": "resnet8"}, "students in"),
        ({"tau": 4}, "unknown study key 'tau'"),
        ({"overrides": {"KD.TEMPERATURE": 3}}, "the study sets it itself"),
        ({"seeds": [-1]}, "allowed: whole numbers from 0"),
    ],
)
def test_a_bad_study_file_is_one_line(changes, message, tmp_path, capsys):
    assert main(["align", str(write_study(tmp_path, **changes))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_a_missing_teacher_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["align", str(write_study(tmp_path))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "resnet14" in line and "--train-teacher" in line


def test_shipped_studies_can_be_read():
    files = sorted((configs_folder() / "studies").glob("*.yaml"))
    assert files
    for file in files:
        assert len(read_study(file).teachers) > 1


def test_overrides_of_the_command_line_come_after_the_files(tmp_path):
    study = read_study(write_study(tmp_path), tuple(words({"SOLVER.EPOCHS": 7})))
    assert study.overrides["SOLVER.EPOCHS"] == "7"
    with pytest.raises(UserError, match="the study sets it itself"):
        read_study(write_study(tmp_path), ("DISTILLER.STUDENT", "resnet8"))

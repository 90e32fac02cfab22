"""The looks of `examine` against values by hand, and on small real runs against their records."""

import csv
import math

import numpy as np
import pytest
import torch
from support.tiny import contents, result

from sdkd_plugin.__main__ import main
from sdkd_plugin.studies.agreement import class_correlation, correlation_gap, fidelity, per_class
from sdkd_plugin.studies.calibration import expected_error, reliability
from sdkd_plugin.studies.embedding import embed
from sdkd_plugin.studies.networks import Outputs, spread

LOOKS = {"per_class", "calibration", "fidelity", "correlation", "tsne"}


def said(predicted: list[int], target: list[int], confidence: float = 0.9, k: int = 3) -> Outputs:
    """Networks' outputs with these predictions, each with the same confidence."""
    rest = math.log((1 - confidence) / (k - 1))
    logits = torch.full((len(predicted), k), rest, dtype=torch.float64)
    logits[torch.arange(len(predicted)), torch.tensor(predicted)] = math.log(confidence)
    return Outputs(logits, torch.tensor(target))


STUDENT = said([0, 0, 1, 2, 2, 0], target=[0, 0, 0, 1, 1, 1])
TEACHER = said([0, 1, 1, 1, 2, 0], target=[0, 0, 0, 1, 1, 1], confidence=0.8)


def test_accuracy_by_class():
    rows = per_class(STUDENT, TEACHER, ["cat", "dog", "owl"])
    cat, dog, owl = rows
    assert (cat["images"], dog["images"], owl["images"]) == (3, 3, 0)
    assert cat["student"] == pytest.approx(200 / 3) and cat["teacher"] == pytest.approx(100 / 3)
    assert dog["student"] == 0 and dog["teacher"] == pytest.approx(100 / 3)
    assert owl["student"] is None and owl["taken_for"] == "" and owl["times"] == 0
    assert (cat["taken_for"], cat["times"]) == ("dog", 1)
    assert (dog["taken_for"], dog["times"]) == ("owl", 2)


def test_fidelity():
    values = fidelity(STUDENT, TEACHER)
    assert values["agreement"] == pytest.approx(400 / 6)  # images 0, 2, 4, 5
    assert values["agreement_teacher_right"] == pytest.approx(50)  # of 0 and 3
    assert values["agreement_teacher_wrong"] == pytest.approx(75)  # of 1, 2, 4, 5
    names = ("both_right", "only_student", "only_teacher", "both_wrong")
    assert [values[name] for name in names] == pytest.approx([100 / 6, 100 / 6, 100 / 6, 50])
    same = 0.8 * math.log(0.8 / 0.9) + 0.2 * math.log(0.1 / 0.05)
    other = 0.8 * math.log(0.8 / 0.05) + 0.1 * math.log(0.1 / 0.9) + 0.1 * math.log(0.1 / 0.05)
    assert values["kl"] == pytest.approx((4 * same + 2 * other) / 6, rel=1e-9)


def test_a_student_that_is_its_teacher_agrees_in_all():
    values = fidelity(TEACHER, TEACHER)
    assert values["agreement"] == 100 and values["kl"] == pytest.approx(0, abs=1e-12)
    assert values["only_student"] == values["only_teacher"] == 0
    always = said([0, 1], [0, 1])
    assert math.isnan(fidelity(always, always)["agreement_teacher_wrong"])


def test_reliability_by_hand():
    """Confidence 0.9 is in bin 14 of 15, (0.8667, 0.9333]; 2 of 6 are right."""
    rows = reliability(STUDENT)
    (filled,) = [row for row in rows if row["images"]]
    assert rows.index(filled) == 13 and filled["images"] == 6
    assert filled["accuracy"] == pytest.approx(100 / 3)
    assert filled["confidence"] == pytest.approx(90)
    assert expected_error(rows) == pytest.approx(90 - 100 / 3)
    assert (rows[0]["low"], rows[-1]["high"]) == (0, 100) and rows[3]["accuracy"] is None


def test_two_bins_are_weighed_by_their_images():
    high, low = said([0, 0, 0], [0, 0, 1]), said([1], [1], confidence=0.5)
    both = Outputs(torch.cat([high.logits, low.logits]), torch.cat([high.target, low.target]))
    expected = (3 * abs(90 - 200 / 3) + 1 * abs(50 - 100)) / 4
    assert expected_error(reliability(both)) == pytest.approx(expected)


def test_class_correlation_is_pearsons_and_a_constant_has_none():
    logits = torch.tensor([[1.0, 2.0, 5.0], [2.0, 4.0, 5.0], [3.0, 0.0, 5.0]])
    found = class_correlation(logits)
    expected = np.corrcoef([1, 2, 3], [2, 4, 0])[0, 1]  # -1 / 2
    assert expected == pytest.approx(-0.5)
    assert found[0, 1].item() == pytest.approx(-0.5) and found[0, 0].item() == pytest.approx(1)
    assert found[2].tolist() == [0, 0, 0]


def test_the_gap_is_signed_and_its_mean_leaves_the_diagonal_out():
    target = torch.zeros(3, dtype=torch.long)
    one = Outputs(torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 0.0]]), target)
    two = Outputs(torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), target)
    gap, mean = correlation_gap(one, two)
    assert gap[0, 1].item() == pytest.approx(-1.5) and mean == pytest.approx(1.5)
    assert gap.diagonal().abs().max().item() < 1e-12
    flat = Outputs(torch.tensor([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0]]), target)
    gap, mean = correlation_gap(flat, two)  # a class that never changes: -1 on the diagonal, too
    assert gap[1, 1].item() == pytest.approx(-1) and mean == pytest.approx(1)
    same, none = correlation_gap(one, Outputs(10 * one.logits + 3, target))
    assert none == pytest.approx(0, abs=1e-12)


def test_tsne_keeps_groups_together_and_is_the_same_each_time():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=generator)
    features[30:] += 30
    outputs = Outputs(features, torch.arange(60) // 30, features)
    points = embed(outputs)
    gap = np.linalg.norm(points[:30].mean(0) - points[30:].mean(0))
    assert gap > 2 * max(points[:30].std(), points[30:].std())
    assert np.array_equal(points, embed(outputs))


def test_images_are_spread_over_the_classes():
    targets = torch.arange(100) % 5
    chosen = spread(targets, 20, 5)
    assert torch.bincount(targets[chosen]).tolist() == [4] * 5
    assert spread(targets, 0, 5).tolist() == spread(targets, 100, 5).tolist() == list(range(100))


@pytest.mark.parametrize("method", ["SDKD", "NONE"])
def test_every_look_is_written_and_says_what_the_record_says(method, runs, tmp_path, capsys):
    run = runs[method]
    before = contents(run)
    assert main(["examine", str(run), "--output", str(tmp_path / "seen")]) == 0
    assert contents(run) == before
    written = {path.name for path in (tmp_path / "seen").iterdir()}
    looks = LOOKS if method == "SDKD" else LOOKS - {"fidelity", "correlation"}
    assert written == {f"{look}.{kind}" for look in looks for kind in ("csv", "png")}
    last = result(run)["last"]
    shown = capsys.readouterr().out
    assert f"top-1 {last['top1']:.2f} %; ECE {last['ece']:.2f} %" in shown
    rows = list(csv.DictReader((tmp_path / "seen" / "per_class.csv").open()))
    mean = sum(int(row["images"]) * float(row["student"]) for row in rows) / 360
    assert mean == pytest.approx(last["top1"], abs=1e-9)
    if method == "SDKD":
        teacher = sum(int(row["images"]) * float(row["teacher"]) for row in rows) / 360
        assert teacher == pytest.approx(result(run)["teacher_score"]["top1"], abs=1e-9)


def test_one_look_alone_goes_to_the_runs_own_folder(runs, capsys):
    assert main(["examine", str(runs["KD"]), "--only", "fidelity", "--images", "40"]) == 0
    folder = runs["KD"] / "studies"
    assert {path.name for path in folder.iterdir()} == {"fidelity.csv", "fidelity.png"}
    assert main(["table", str(runs["KD"])]) == 0  # it is a run still
    assert "KD" in capsys.readouterr().out


def test_what_cannot_be_looked_at_is_one_line(runs, tmp_path, capsys):
    for arguments, message in (
        ([runs["NONE"], "--only", "fidelity"], "has no teacher, which fidelity compares with"),
        ([runs["KD"], "--only", "fidelty"], "unknown look 'fidelty' in --only: did you mean"),
        ([tmp_path], "is no run folder"),
        ([runs["KD"], "--images", "-3"], "--images is -3"),
    ):
        assert main(["examine", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line


def test_without_matplotlib_the_extra_is_named(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    arguments = ["examine", str(runs["KD"]), "--only", "fidelity", "--output", str(tmp_path)]
    assert main(arguments) == 2
    assert "pip install 'sdkd-plugin[studies]'" in capsys.readouterr().err

"""`attention` on small real runs: which images are drawn, and what is said of them."""

import csv

import numpy as np
import pytest
import torch
from support.tiny import contents, save_teacher, tiny_config

from sdkd_plugin.__main__ import main
from sdkd_plugin.engine.run import train
from sdkd_plugin.errors import UserError
from sdkd_plugin.studies.attention import AttentionOptions, choose, watch
from sdkd_plugin.studies.attention_views import Attention, correlation_grid, correlations
from sdkd_plugin.studies.networks import collect, open_run, spread


def test_every_network_is_watched_and_nothing_is_changed(runs, tmp_path, capsys):
    folders = [str(runs[name]) for name in ("NONE", "KD", "SDKD")]
    before = [contents(runs[name]) for name in ("NONE", "KD", "SDKD")]
    words = ["--images", "30", "--count", "2", "--output", str(tmp_path / "seen")]
    assert main(["attention", *folders, *words]) == 0
    assert [contents(runs[name]) for name in ("NONE", "KD", "SDKD")] == before
    assert (tmp_path / "seen" / "attention.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "seen" / "attention.csv").open()))
    names = ["student alone", "KD", "SDKD", "SDKD's proxy"]
    assert [row["network"] for row in rows] == names
    for row in rows:
        assert int(row["images"]) + int(row["undefined"]) == 30
    shown = capsys.readouterr().out
    assert "Rank correlation of maps with the teacher's" in shown and "SDKD's proxy" in shown


def test_images_by_index_class_and_disagreement(runs):
    opened = [open_run(runs[name]) for name in ("NONE", "KD")]
    watched = watch(opened)
    test = opened[0].dataset.test
    pool = spread(test.targets, 100, 10)

    def chosen(**words) -> torch.Tensor:
        return choose(AttentionOptions((), **words), opened[0], watched, pool)

    assert chosen(index=(7, 0, 7)).tolist() == [7, 0]
    assert set(test.targets[chosen(of_class="3", count=4)].tolist()) == {3}
    assert len(chosen(count=5)) == 5 and set(chosen(count=5).tolist()) <= set(pool.tolist())
    found = chosen(disagree=True, count=3)
    assert len(found) == 3
    said = [collect(w.network, w.batches(found), w.name).predicted for w in watched]
    assert all(len(set(column.tolist())) > 1 for column in torch.stack(said, 1))

    test.targets[test.targets == 3] = 4
    with pytest.raises(UserError, match="no test image is of class '3'; name another --class"):
        chosen(of_class="3")


def test_positions_are_those_of_the_runs_images(runs):
    (teacher, student) = watch([open_run(runs["KD"])])
    positions = torch.tensor([5, 2])
    ((image, target),) = teacher.batches(positions)
    assert target.tolist() == teacher.run.dataset.test.targets[positions].tolist()
    whole = torch.cat([image for image, _ in teacher.run.batches()])
    assert torch.equal(image, whole[positions])
    assert (teacher.name, student.name) == ("teacher resnet14", "KD")


def maps_of(*rows: list[float], name: str = "x") -> Attention:
    maps = torch.tensor(rows)[:, None]
    return Attention(name, torch.zeros(len(rows)), torch.ones(len(rows)), maps)


def test_the_table_by_hand():
    """Orders equal, opposite and equal: correlations 1, -1, 1; the fourth map is flat."""
    teacher = maps_of([1, 2, 3], [1, 2, 3], [3, 1, 2], [1, 2, 3], name="teacher")
    student = maps_of([1, 5, 9], [3, 2, 1], [9, 1, 5], [4, 4, 4], name="KD")
    (row,) = correlations([teacher, student])
    assert (row["network"], row["images"], row["undefined"]) == ("KD", 3, 1)
    assert row["mean"] == pytest.approx(1 / 3) and row["median"] == pytest.approx(1)
    assert row["sd"] == pytest.approx(np.std([1, -1, 1], ddof=1))
    # with the map two images away: (1, 2, 3) with (3, 1, 2) is -1 / 2, the second -1, the third
    # (3, 1, 2) with (1, 2, 3), -1 / 2
    assert row["other_image_mean"] == pytest.approx((-0.5 - 1 - 0.5) / 3)
    grid = correlation_grid([row], predicted=False)
    assert any("1 maps are the same everywhere" in note for note in grid.notes)


def test_two_runs_of_a_method_are_told_apart(runs):
    names = [each.name for each in watch([open_run(runs["KD"]), open_run(runs["KD"])])]
    assert len(set(names)) == 2  # the folder says it, which is the same here
    assert names[1].startswith("KD ")


def test_what_cannot_be_compared_is_one_line(runs, tmp_path, capsys):
    other = save_teacher(tmp_path / "other", seed=3)
    short = {"SOLVER.EPOCHS": 1, "DISTILLER.TYPE": "KD", "DISTILLER.TEACHER_CKPT": other}
    foreign = train(tiny_config(tmp_path, short)).path
    capsys.readouterr()
    kd = str(runs["KD"])
    for arguments, message in (
        ([runs["NONE"]], "have no trained teacher; give runs of one teacher"),
        ([kd, foreign], "have different teachers"),
        ([kd, "--index", "360"], "--index is 360; allowed: 0 to 359"),
        ([kd, "--class", "ten"], "unknown class 'ten' in --class"),
        ([kd, "--count", "0"], "--count is 0; allowed: 1 to 40"),
        ([kd, *["--index", "0"] * 41], "--index names 41 images; allowed: 1 to 40"),
        ([kd, "--images", "1"], "--images is 1; allowed: 0 (all) or 2 and more"),
        ([kd, "--index", "1", "--disagree"], "leave --class and --disagree out"),
        ([tmp_path], "is no run folder"),
    ):
        assert main(["attention", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line

"""Run folders in the form mdistiller's trainer writes, read into the table.

test_training.py reads a real one.
"""

import csv
import io
import os

import numpy as np
import pytest
import torch

from sdkd_plugin.__main__ import main
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.runs.find import Rejected
from sdkd_plugin.runs.mdistiller import read_upstream

SPEC = "{}:DKD:resnet56/resnet20:0"


def epoch_lines(number, top1, lr=0.05):
    line = "-" * 25 + "\n"
    logged = {
        "train_acc": 60.0,
        "train_loss": 1.5,
        "test_acc": top1,
        "test_acc_top5": 90.0,
        "test_loss": 1.25,
    }
    return (
        line
        + f"epoch: {number}\nlr: {lr:.2f}\n"
        + "".join(f"{k}: {v:.2f}\n" for k, v in logged.items())
        + line
    )


@pytest.fixture
def write(tmp_path):
    """Writes a run with the given top-1 per epoch; returns its folder.

    Its name holds colons, as mdistiller's do.
    """

    def folder(name, top1, decay=5e-4, teacher=0.5, done=True, student="resnet20", latest=True):
        path = (
            tmp_path
            / "output"
            / "cifar100_baselines"
            / f"{name}SOLVER.EPOCHS:{len(top1)},SOLVER.LR:0.05"
        )
        path.mkdir(parents=True)
        end = f"best_acc\t{max(top1):.2f}" if done else ""
        (path / "worklog.txt").write_text(
            "".join(epoch_lines(n, t) for n, t in enumerate(top1, start=1)) + end
        )
        net = build_model(student, 100)
        torch.save({"model": net.state_dict()}, path / "student_best")
        if latest:
            # numpy from the first decay on
            group = {"lr": np.float64(0.005), "momentum": 0.9, "weight_decay": decay}
            model = {
                "module.teacher.fc.weight": torch.full((2, 2), teacher),
                "module.student.fc.bias": torch.zeros(2),
            }
            state = {
                "epoch": len(top1),
                "model": model,
                "optimizer": {"param_groups": [group]},
                "best_acc": torch.tensor(1.0),
            }
            torch.save(state, path / "latest")
        return path

    return folder


def test_a_run_is_read(write):
    run = read_upstream(SPEC.format(write("dkd", [50.0, 61.25, 60.5])))
    assert (run.method, run.teacher, run.student) == ("DKD", "resnet56", "resnet20")
    assert (run.seed, run.epochs) == (0, 3)
    assert run.host == "mdistiller" and run.evaluates == "test"
    assert run.curve == ((1, 50.0), (2, 61.25), (3, 60.5))
    assert run.result.last == {"top1": 60.5, "top5": 90.0} and run.result.best_epoch == 2
    assert (
        run.protocol["SOLVER.WEIGHT_DECAY"] == 5e-4 and run.protocol["last learning rate"] == 0.005
    )
    assert run.protocol["DATASET.TYPE"] == "cifar100" and run.result.deployed_parameters == 278324


def test_a_run_without_latest_or_teacher_is_read(write):
    run = read_upstream(SPEC.format(write("dkd", [50.0], latest=False)))
    assert run.teacher_hash == "not recorded" and "SOLVER.WEIGHT_DECAY" not in run.protocol
    vanilla = read_upstream(f"{write('vanilla', [40.0])}:vanilla:-/resnet20:4")
    assert (vanilla.method, vanilla.teacher, vanilla.seed) == ("NONE", None, 4)


def test_a_run_of_its_dot_trainer_says_what_a_config_would_say(write):
    path = write("dot", [50.0])
    state = torch.load(path / "latest", weights_only=False)
    state["optimizer"]["param_groups"][0].update(momentum=0.9 - 0.075, momentum_kd=0.9 + 0.075)
    torch.save(state, path / "latest")
    run = read_upstream(SPEC.format(path))
    assert run.protocol["SOLVER.MOMENTUM"] == 0.9
    assert run.recipe == {"SOLVER.OPTIMIZER": "dot", "SOLVER.DOT.DELTA": 0.075}


def test_the_teacher_is_known_by_its_weights(write):
    hashes = [
        read_upstream(SPEC.format(write(str(n), [50.0], teacher=w))).teacher_hash
        for n, w in enumerate((0.5, 0.5, 0.25))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def table(capsys, *arguments):
    capsys.readouterr()
    assert main(["table", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_table_shows_both_hosts_and_mixes_none(write, make_run, capsys):
    ours = make_run("DKD", 0, [55.0, 60.0, 58.0])
    named = [
        SPEC.format(write("dkd", [50.0, 61.0, 60.5])),
        f"{write('none', [1.0, 2.0, 40.5])}:NONE:-/resnet20:0",
    ]
    text = table(capsys, ours.parents[2], "--upstream", *named, "--format", "csv")
    rows = {(r["method"], r["last_mean"]): r for r in csv.DictReader(io.StringIO(text))}
    theirs, vanilla, own = rows["DKD", "60.5"], rows["student", "40.5"], rows["DKD", "58.0"]
    assert theirs["protocol"] == vanilla["protocol"] != own["protocol"]
    assert (
        float(theirs["gain"]) == 20 and theirs["gain_same_seeds"] == "False" and own["gain"] == ""
    )
    assert theirs["hours"] == "" and theirs["published"] and float(own["hours"]) == 0.5
    text = table(capsys, ours.parents[2], "--upstream", *named)
    assert (
        "host mdistiller" in text
        and "sets no seed" in text
        and "SOLVER.BATCH_SIZE not recorded (published: 64)" in text
    )


@pytest.mark.parametrize("style", ["terminal", "md", "latex", "csv", "html"])
def test_every_format_prints_runs_of_mdistiller_alone(write, capsys, style):
    assert "60.5" in table(
        capsys, "--format", style, "--upstream", SPEC.format(write("dkd", [50.0, 60.5]))
    )


def test_runs_of_mdistiller_are_not_paired(write, capsys):
    named = [SPEC.format(write("a", [60.0])), SPEC.format(write("b", [61.0])).replace("DKD", "KD")]
    assert "their trainer sets no seed" in table(capsys, "--versus", "DKD", "--upstream", *named)


def test_other_weight_decay_or_teacher_is_another_column(write, capsys):
    named = [write("a", [60.0]), write("b", [61.0], decay=1e-4), write("c", [62.0], teacher=0.25)]
    specs = [f"{path}:KD:resnet56/resnet20:{seed}" for seed, path in enumerate(named)]
    text = table(capsys, "--format", "csv", "--upstream", *specs)
    assert {row["protocol"] for row in csv.DictReader(io.StringIO(text))} == {"a", "b", "c"}


def test_a_folder_of_mdistiller_among_ours_is_listed_with_the_way_to_name_it(
    write, make_run, tmp_path, capsys
):
    make_run("DKD", 0, [58.0])
    path = write("dkd", [60.0])
    assert f"--upstream {path}:METHOD" in table(capsys, tmp_path)
    assert "METHOD" not in table(capsys, tmp_path, "--upstream", SPEC.format(path))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda text: text.replace("best_acc\t", ""), "is unfinished"),
        (lambda text: text + epoch_lines(3, 62.0), "is unfinished"),
        (lambda text: text.replace("epoch: 2", "epoch: 3"), "skips to epoch 3"),
        (lambda text: epoch_lines(1, 40.0) + epoch_lines(2, 41.0) + text, "starts over at epoch 1"),
        (lambda text: text.replace("test_acc: 61.00", "test_acc: nan"), "no percentage"),
        (lambda text: text.replace("test_acc: 61.00", "test_acc: x"), "torn or foreign"),
        (lambda text: text.replace("test_acc: 61.00\n", ""), "torn or foreign"),
        (lambda text: "best_acc\t1.00", "holds no epoch"),
    ],
)
def test_a_torn_worklog_is_told(write, edit, reason):
    path = write("dkd", [50.0, 61.0])
    log = path / "worklog.txt"
    log.write_text(edit(log.read_text()))
    bad = read_upstream(SPEC.format(path))
    assert isinstance(bad, Rejected) and reason in bad.reason


def test_a_repeated_last_epoch_counts_once_as_the_later(write):
    path = write("dkd", [50.0, 61.0])
    log = path / "worklog.txt"
    log.write_text(log.read_text().replace("best_acc", epoch_lines(2, 62.0) + "best_acc"))
    assert read_upstream(SPEC.format(path)).curve == ((1, 50.0), (2, 62.0))


def test_a_resumed_runs_log_is_read(write):
    """A finished run continued for more epochs.

    best_acc has no line end, so the next rule follows on its line.
    """
    path = write("dkd", [50.0])
    log = path / "worklog.txt"
    log.write_text(log.read_text() + epoch_lines(2, 61.0) + "best_acc\t61.00")
    assert read_upstream(SPEC.format(path)).curve == ((1, 50.0), (2, 61.0))


def test_another_students_weights_or_files_are_told(write):
    path = write("dkd", [50.0], student="resnet32")
    assert "not for model 'resnet20'" in read_upstream(SPEC.format(path)).reason
    (path / "student_best").unlink()
    assert "student_best does not exist" in read_upstream(SPEC.format(path)).reason
    path = write("kd", [50.0])
    torch.save({"epoch": 1}, path / "latest")
    assert "latest is not mdistiller's checkpoint" in read_upstream(SPEC.format(path)).reason
    (path / "worklog.txt").unlink()
    assert "worklog.txt cannot be read" in read_upstream(SPEC.format(path)).reason


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("here", "not of the form PATH:METHOD"),
        ("{}:DKD:resnet20:0", "not of the form PATH:METHOD"),
        ("{}:DKD:resnet56/resnet20:x", "not of the form PATH:METHOD"),
        ("{}/none:DKD:resnet56/resnet20:0", "there is no folder"),
        ("{}:DKD:resnet57/resnet20:0", "did you mean 'resnet56'"),
        ("{}:DKD:resnet56/resnet_20:0", "did you mean 'resnet20'"),
    ],
)
def test_a_misspelled_run_is_refused(tmp_path, named, message):
    with pytest.raises(UserError, match=message):
        read_upstream(named.format(tmp_path))


@pytest.mark.parametrize("name", ["worklog.txt", "student_best", "latest"])
def test_a_pipe_in_place_of_a_file_does_not_hang(write, name):
    path = write("dkd", [50.0])
    (path / name).unlink()
    os.mkfifo(path / name)
    read = read_upstream(SPEC.format(path))
    assert isinstance(read, Rejected) and "is no regular file" in read.reason


@pytest.mark.parametrize("old, new", [("lr: 0.05", "lr: nan"), ("lr: 0.05", "lr: 1e400")])
def test_a_learning_rate_that_is_no_number_is_told(write, old, new):
    path = write("dkd", [50.0])
    text = (path / "worklog.txt").read_text()
    (path / "worklog.txt").write_text(text.replace(old, new))
    assert "learning rate that is no number" in read_upstream(SPEC.format(path)).reason


def test_momentum_that_is_no_number_is_told(write):
    path = write("dkd", [50.0], decay=float("nan"))
    assert "a number that is none: {'SOLVER.WEIGHT_DECAY': nan}" in (
        read_upstream(SPEC.format(path)).reason
    )

"""mdistiller's own tools/train.py, on a CPU, with methods of this package."""

import csv
import io
import json
import math

import pytest

from sdkd_plugin.__main__ import main

SHORT = "SOLVER.EPOCHS 1 SOLVER.BATCH_SIZE 64 DATASET.NUM_WORKERS 0 LOG.WANDB False".split()
SDKD = ["--cfg", "configs/cifar100/sdkd/res56_res20.yaml", *SHORT]


def run_folder(checkout):
    """The only run folder there is: upstream puts all overrides into its name."""
    (log,) = (checkout / "output").rglob("worklog.txt")
    return log.parent


def logged(folder, key):
    """The last value of a line `key: value` in worklog.txt."""
    lines = (folder / "worklog.txt").read_text().splitlines()
    return float([line for line in lines if line.startswith(f"{key}: ")][-1].split(": ")[1])


@pytest.mark.slow
def test_a_linked_checkout_trains_sdkd_and_its_student_scores_the_same_here(ready, call, capsys):
    main(["link", str(ready)])
    done = call(ready, "tools/train.py", *SDKD)
    assert "Extra parameters of SDKD: " in done.stdout
    folder = run_folder(ready)
    assert logged(folder, "train_loss") > 0
    capsys.readouterr()
    data = ["DATASET.ROOT", str(ready / "data"), "DATASET.DOWNLOAD", "False"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
        assert main(["eval", "-m", "resnet20", "-c", str(folder / "student_best"), *data]) == 0
    assert f"top-1 {logged(folder, 'test_acc'):.2f}" in capsys.readouterr().out
    assert (
        main(["table", "--format", "csv", "--upstream", f"{folder}:SDKD:resnet56/resnet20:0"]) == 0
    )
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["status"], row["method"], row["teacher"], row["n"]) == (
        "cell",
        "SDKD",
        "resnet56",
        "1",
    )
    assert float(row["last_mean"]) == logged(folder, "test_acc") and row["published"]


@pytest.mark.slow
def test_a_student_trained_here_scores_the_same_there(ready, call, capsys, monkeypatch):
    monkeypatch.chdir(ready)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    words = "SOLVER.EPOCHS 1 DATASET.ROOT data DATASET.DOWNLOAD False EXPERIMENT.NAME here".split()
    assert main(["train", "--cfg", "configs/cifar100/sdkd/res56_res20.yaml", *words]) == 0
    (student,) = (ready / "output").rglob("here/seed0/student_latest")
    here = float(json.loads((student.parent / "result.json").read_text())["last"]["top1"])
    done = call(ready, "tools/eval.py", "-m", "resnet20", "-c", str(student), "-d", "cifar100")
    assert f"Top-1:{here:.3f}" in done.stdout + done.stderr


@pytest.mark.slow
def test_an_unlinked_checkout_trains_sdkd_through_run_and_resumes(ready, call):
    cfg = ready / "sdkd.yaml"
    cfg.write_text(CONFIG)
    arguments = ["-m", "sdkd_plugin", "run", "tools/train.py", "--cfg", "sdkd.yaml"]
    call(ready, *arguments, *SHORT)
    first = run_folder(ready)
    longer = [word if word != "1" else "2" for word in SHORT]
    second = first.with_name(first.name.replace("SOLVER.EPOCHS:1", "SOLVER.EPOCHS:2"))
    first.rename(second)
    call(ready, *arguments[:-2], "--cfg", "sdkd.yaml", "--resume", *longer)
    text = (second / "worklog.txt").read_text()
    assert text.count("epoch: 1\n") == 1 and text.count("epoch: 2\n") == 1


CONFIG = """
EXPERIMENT: {NAME: "", TAG: "sdkd", PROJECT: "t"}
DISTILLER: {TYPE: "SDKD", TEACHER: "resnet56", STUDENT: "resnet8"}
SDKD: {SYNC: epoch}
"""


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["base", "dot"])
def test_sdkd_runs_under_upstreams_trainers(ready, call, trainer):
    main(["link", str(ready)])
    call(ready, "tools/train.py", *SDKD, "SOLVER.TRAINER", trainer)
    assert math.isfinite(logged(run_folder(ready), "train_loss"))


@pytest.mark.slow
@pytest.mark.parametrize("cfg", ["dkd/res56_res20.yaml", "crd.yaml"])
def test_upstreams_own_methods_still_run_in_a_linked_checkout(ready, call, cfg):
    main(["link", str(ready)])
    pair = "DISTILLER.TEACHER resnet56 DISTILLER.STUDENT resnet20".split()
    crd = (
        "CRD.FEAT.STUDENT_DIM 64 CRD.FEAT.TEACHER_DIM 64 CRD.NCE.K 16".split()
        if cfg == "crd.yaml"
        else []
    )
    call(ready, "tools/train.py", "--cfg", f"configs/cifar100/{cfg}", *pair, *crd, *SHORT)
    assert logged(run_folder(ready), "train_loss") > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["AB", "FT", "FSP"])
def test_a_method_with_phases_trains_them_in_turn_and_resumes_in_the_last(ready, call, method):
    main(["link", str(ready)])
    cfg = f"configs/cifar100/{method.lower()}/res56_res20.yaml"
    init = [f"{method}.INIT_EPOCHS", "2"]
    done = call(ready, "tools/train.py", "--cfg", cfg, *SHORT, *init)
    assert [
        line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("phase ")
    ] == [
        "phase init, epoch 1 of 2",
        "phase init, epoch 2 of 2",
    ]
    first = run_folder(ready)
    assert math.isfinite(logged(first, "train_loss"))
    longer = [word if word != "1" else "2" for word in SHORT]
    second = first.with_name(first.name.replace("SOLVER.EPOCHS:1", "SOLVER.EPOCHS:2"))
    first.rename(second)
    done = call(ready, "tools/train.py", "--cfg", cfg, "--resume", *longer, *init)
    text = (second / "worklog.txt").read_text()
    assert (
        "phase init" not in done.stdout
        and text.count("epoch: 1\n") == 1
        and text.count("epoch: 2\n") == 1
    )


def test_a_script_outside_a_checkout_is_refused(tmp_path, capsys):
    assert main(["run", str(tmp_path / "tools" / "train.py")]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train.py").write_text("")
    assert main(["run", str(tmp_path / "tools" / "train.py")]) == 2
    assert "no folder mdistiller/" in capsys.readouterr().err

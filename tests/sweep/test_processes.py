"""A sweep whose runs have two processes each, where their method allows it."""

import json
from pathlib import Path

import pytest
import yaml
from support.tiny import save_teacher

from sdkd_plugin.__main__ import main
from sdkd_plugin.errors import UserError
from sdkd_plugin.sweep.command import SweepOptions, _say_processes, run_sweep
from sdkd_plugin.sweep.execute import command
from sdkd_plugin.sweep.jobs import read_sweep


@pytest.fixture
def sweep(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_teacher(Path("teacher.pth"), "resnet56")
    tree = {
        "methods": ["kd", "rkd"],
        "pairs": ["res56_res20"],
        "seeds": [0],
        "teachers": {"resnet56": "teacher.pth"},
        "overrides": {"DATASET.TYPE": "digits", "DATASET.SUBSET": 0.1, "SOLVER.EPOCHS": 1},
    }
    path = Path("sweep.yaml")
    path.write_text(yaml.safe_dump(tree))
    return path


def test_each_command_has_as_many_as_its_method_and_settings_allow(sweep):
    tree = yaml.safe_load(sweep.read_text())
    variants = {"sdkd": {"own": {}, "other": {"SDKD.TEACHER_FEATURES": "shuffled"}}}
    sweep.write_text(
        yaml.safe_dump({**tree, "methods": ["kd", "rkd", "sdkd"], "variants": variants})
    )
    jobs = read_sweep(sweep).students
    shared = {job.label: "--nproc-per-node=2" in command(job, 2) for job in jobs}
    assert shared == {
        "kd/res56_res20 seed 0": True,
        "rkd/res56_res20 seed 0": False,
        "sdkd/res56_res20 own seed 0": True,
        "sdkd/res56_res20 other seed 0": False,
    }
    assert not any("torch.distributed.run" in command(job) for job in jobs)


def test_what_has_one_process_is_named_with_what_asks_for_it(sweep, capsys):
    tree = yaml.safe_load(sweep.read_text())
    sweep.write_text(yaml.safe_dump({**tree, "methods": ["kd", "rkd", "sdkd"]}))
    jobs = read_sweep(sweep, ("SDKD.TEACHER_FEATURES", "shuffled")).students
    _say_processes(jobs, 2)
    assert capsys.readouterr().out == (
        "not in lockstep: each run by 2 processes, but one for those that need the whole batch: "
        "rkd/res56_res20 (RKD), sdkd/res56_res20 (SDKD.TEACHER_FEATURES shuffled)\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 0}, "--processes is 0; allowed: 1 or more"),
        ({"processes": 2, "executor": "ray"}, "--processes is 2; allowed with --executor ray: 1"),
    ],
)
def test_bad_options_are_told(sweep, options, message):
    with pytest.raises(UserError, match=message):
        run_sweep(SweepOptions(sweep, **options))


@pytest.mark.slow
def test_two_processes_train_what_they_can(sweep, capsys):
    assert main(["sweep", str(sweep), "--processes", "2"]) == 0
    said = capsys.readouterr().out
    assert "each run by 2 processes, but one for those that need the whole batch: rkd/" in said
    records = [json.loads(path.read_text()) for path in Path("output").rglob("result.json")]
    assert {record["method"]: record["processes"] for record in records} == {"KD": 2, "RKD": 1}


@pytest.mark.slow
def test_a_run_of_two_processes_that_fails_is_told_by_its_error(sweep, capsys):
    words = ["--processes", "2", "SOLVER.LR", "1e30"]
    assert main(["sweep", str(sweep), *words]) == 2
    error = capsys.readouterr().err
    assert "2 of 2 runs failed" in error and "loss is not finite at epoch 1, step" in error
    assert "kd/res56_res20 seed 0: exit code 1: error: loss is not finite" in error

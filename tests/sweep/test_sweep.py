"""A sweep file becomes runs; finished ones are left alone; one failure stops nothing else."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sdkd_plugin.__main__ import main
from sdkd_plugin.config import configs_folder
from sdkd_plugin.errors import UserError
from sdkd_plugin.sweep.command import EXECUTORS, SweepOptions, run_sweep
from sdkd_plugin.sweep.jobs import folder_of, read_sweep, unfinished

TINY = {
    "DATASET.TYPE": "digits",
    "DATASET.SUBSET": 0.1,
    "SOLVER.EPOCHS": 1,
    "SOLVER.SCHEDULE_EPOCHS": 240,
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a sweep file whose runs go below tmp_path, the working directory, without teachers."""
    monkeypatch.chdir(tmp_path)

    usual = {"methods": ["vanilla", "kd"], "pairs": ["res56_res20"], "seeds": [0, 1]}

    def write_file(**changes) -> Path:
        tree = {**usual, "overrides": TINY, **changes}
        given = {key: value for key, value in tree.items() if value is not None}
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(given))
        return path

    return write_file


def labels(jobs):
    return [job.label for job in jobs]


def test_methods_times_pairs_times_seeds_with_the_missing_teacher_first(write):
    sweep = read_sweep(write())
    assert labels(sweep.teachers) == ["teacher resnet56"]
    assert labels(sweep.students) == [
        "vanilla/resnet20 seed 0",
        "vanilla/resnet20 seed 1",
        "kd/res56_res20 seed 0",
        "kd/res56_res20 seed 1",
    ]

    teacher = sweep.teachers[0].config()
    assert (teacher.DISTILLER.TYPE, teacher.DISTILLER.STUDENT) == ("NONE", "resnet56")
    assert teacher.SOLVER.SEED == 0
    student = sweep.students[3].config()
    assert (student.SOLVER.SEED, student.DATASET.TYPE) == (1, "digits")
    checkpoint = folder_of(sweep.teachers[0]).path / "student_latest"
    assert Path(student.DISTILLER.TEACHER_CKPT) == checkpoint


def test_vanilla_is_one_run_for_all_teachers_of_a_student(write):
    pairs = ["res56_res20", "res110_res20", "res110_res32"]
    sweep = read_sweep(write(methods=["vanilla"], pairs=pairs, seeds=[3]))
    assert labels(sweep.students) == ["vanilla/resnet20 seed 3", "vanilla/resnet32 seed 3"]
    assert sweep.teachers == []


def test_a_folder_of_two_methods_is_refused(write):
    Path("teacher.pth").write_bytes(b"content")
    changes = {"overrides": {**TINY, "EXPERIMENT.NAME": "mine"}, "seeds": [0, 1]}
    message = (
        "EXPERIMENT.NAME 'mine' in .*sweep.yaml is the folder of vanilla/resnet20 and of "
        "kd/res56_res20; leave it out"
    )
    with pytest.raises(UserError, match=message):
        read_sweep(write(**changes, teachers={"resnet56": "teacher.pth"}))
    assert len(read_sweep(write(**changes, methods=["vanilla"])).students) == 2


def test_variants_are_runs_of_their_own_in_folders_of_their_own(write):
    variants = {"sdkd": {"full": {}, "no mutual": {"SDKD.LOSS.MUTUAL_WEIGHT": 0.0}}}
    Path("teacher.pth").write_bytes(b"content")
    teachers = {"resnet56": "teacher.pth"}
    sweep = read_sweep(write(methods=["sdkd"], seeds=[0], variants=variants, teachers=teachers))
    assert labels(sweep.students) == [
        "sdkd/res56_res20 full seed 0",
        "sdkd/res56_res20 no mutual seed 0",
    ]
    assert [job.config().SDKD.LOSS.MUTUAL_WEIGHT for job in sweep.students] == [1.0, 0.0]
    assert len({folder_of(job).path for job in sweep.students}) == 2
    assert sweep.teachers == []
    assert sweep.students[0].config().DISTILLER.TEACHER_CKPT == "teacher.pth"


def test_the_command_lines_overrides_come_last(write):
    sweep = read_sweep(write(), ("SOLVER.EPOCHS", "2"))
    assert {job.config().SOLVER.EPOCHS for job in [*sweep.teachers, *sweep.students]} == {2}


def test_overrides_come_in_pairs(write):
    with pytest.raises(UserError, match="KEY VALUE pairs; 'SOLVER.EPOCHS' has no partner"):
        read_sweep(write(), ("SOLVER.EPOCHS",))


def test_commands_are_the_missing_teachers_and_then_the_students(write, capsys):
    path = write(seeds=[0])
    assert main(["sweep", str(path), "--commands"]) == 0
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    assert "vanilla/resnet56.yaml --resume" in line and "for the 2 students" in err

    Path("teacher.pth").write_bytes(b"content")
    path = write(seeds=[0], teachers={"resnet56": "teacher.pth"})
    assert main(["sweep", str(path), "--commands"]) == 0
    out, err = capsys.readouterr()
    found = [("/kd/" in line, "TEACHER_CKPT teacher.pth" in line) for line in out.splitlines()]
    assert found == [(False, False), (True, True)]
    assert err == ""


def test_options_may_be_built_by_a_program(write, capsys):
    run_sweep(SweepOptions(write(seeds=[0]), ("SOLVER.EPOCHS", "2"), commands_only=True))
    assert "SOLVER.EPOCHS 2" in capsys.readouterr().out


def test_a_plan_for_scripts_is_one_json_object(write, capsys):
    path = write(overrides={**TINY, "DISTILLER.TEACHER": "resnet14"}, pairs=["resnet14/resnet8"])
    assert main(["sweep", str(path), "--jobs", "2", "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["total"], plan["finished"], plan["jobs"]) == (5, 0, 2)
    assert [(each["kind"], each["n"], each["epochs"]) for each in plan["runs"]] == [
        ("teacher resnet14", 1, 1),
        ("vanilla/resnet8", 2, 1),
        ("kd/resnet14/resnet8", 2, 1),
    ]
    each = [(kind["n"], kind["hours"], kind["mib"]) for kind in plan["runs"]]
    assert all(hours > 0 and mib > 0 for _, hours, mib in each)
    assert plan["hours_in_turn"] == pytest.approx(sum(n * hours for n, hours, _ in each))
    assert plan["hours"] == plan["hours_in_turn"] / 2

    assert main(["sweep", str(path), "--json"]) == 2
    assert "--json goes with --plan alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "--jobs is 0; allowed: 1 or more"),
        ({"executor": "rai"}, "unknown executor 'rai' in --executor: did you mean 'ray'"),
    ],
)
def test_bad_options_are_told_before_the_file_is_read(options, message):
    with pytest.raises(UserError, match=message):
        run_sweep(SweepOptions(Path("nix.yaml"), **options))


def test_the_command_line_offers_the_executors_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    assert f"{{{','.join(EXECUTORS)}}}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_printed_command_is_the_run(write, capsys):
    path = write(methods=["vanilla"], seeds=[0])
    main(["sweep", str(path), "--commands"])
    subprocess.run(capsys.readouterr().out, shell=True, check=True, capture_output=True)
    main(["sweep", str(path), "--commands"])
    assert capsys.readouterr().out == "" and list(unfinished(read_sweep(path).students)) == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"methods": ["vanila"]}, "unknown method 'vanila'.*did you mean 'vanilla'"),
        ({"pairs": ["res56_res21"]}, "unknown pair 'res56_res21'.*did you mean 'res56_res20'"),
        ({"seed": [0]}, "unknown sweep key 'seed'.*did you mean 'seeds'"),
        ({"seeds": 3}, "seeds in .* is 3; allowed: a list"),
        ({"seeds": None}, "has no seeds"),
        ({"methods": []}, "has no methods"),
        ({"overrides": {"SOLVER.EPOCH": 1}}, "unknown config key 'SOLVER.EPOCH'"),
        ({"variants": {"sdkdd": {"a": {}}}}, "unknown method 'sdkdd'"),
    ],
)
def test_a_faulty_file_is_refused_with_the_fault(write, change, message):
    with pytest.raises(UserError, match=message):
        read_sweep(write(**change))


@pytest.mark.parametrize(
    "content, message",
    [("[1, 2]", "holds list"), ("a: [", "no valid yaml"), (None, "cannot be read")],
)
def test_an_unreadable_file_is_refused(tmp_path, content, message):
    path = tmp_path / "sweep.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_sweep(path)


@pytest.mark.parametrize("name", ["poster", "laptop", "controls", "search", "smoke"])
def test_the_sweeps_that_ship_expand(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    tree = yaml.safe_load((configs_folder() / "sweeps" / f"{name}.yaml").read_text())
    quick = ("DATASET.TYPE", "digits", "DATASET.IMAGE_SIZE", "0")
    sweep = read_sweep(configs_folder() / "sweeps" / f"{name}.yaml", quick)
    seen = {job.label.split("/")[0] for job in sweep.students}
    assert seen == set(tree["methods"])
    assert all(pair.startswith("fsp/") for pair in sweep.undefined)


@pytest.mark.slow
def test_a_sweep_runs_goes_on_after_a_failure_and_is_not_repeated(write, capsys):
    def written() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in Path("output").rglob("result.json")}

    Path("broken.pth").write_bytes(b"no checkpoint")
    path = write(seeds=[0], teachers={"resnet56": "broken.pth"})
    assert main(["sweep", str(path), "--jobs", "2"]) == 2
    captured = capsys.readouterr()
    assert "2 runs, 0 of them finished" in captured.out
    assert "1 of 2 runs failed" in captured.err
    assert "kd/res56_res20 seed 0: checkpoint broken.pth is refused" in captured.err

    path = write(seeds=[0])
    assert main(["sweep", str(path), "--jobs", "2"]) == 0
    assert "3 runs, 1 of them finished" in capsys.readouterr().out
    results = written()
    assert len(results) == 3

    assert main(["sweep", str(path)]) == 0
    assert "3 runs, 3 of them finished" in capsys.readouterr().out
    assert written() == results
    assert list(unfinished(read_sweep(path).students)) == []


@pytest.mark.slow
def test_ctrl_c_stops_the_runs_and_the_sweep_goes_on_from_there(write, tmp_path):
    overrides = {**TINY, "DATASET.SUBSET": 1.0, "SOLVER.EPOCHS": 6}
    path = write(methods=["vanilla"], seeds=[0], overrides=overrides)
    command = [sys.executable, "-m", "sdkd_plugin", "sweep", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # a shell that put the tests into the background made SIGINT ignored, which children inherit
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    place = {"cwd": tmp_path, "env": environment}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **place, **heed)

    deadline = time.monotonic() + 300
    while not list(tmp_path.rglob("student_latest")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not list(tmp_path.rglob("result.json"))

    assert subprocess.run(command, capture_output=True, **place).returncode == 0
    (result,) = tmp_path.rglob("result.json")
    assert json.loads(result.read_text())["epochs"] == 6

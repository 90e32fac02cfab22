"""A sweep's jobs in groups: who stands with whom, what a group's process says, and that a sweep in
lockstep makes the runs that it makes without.
"""

import json
from pathlib import Path

import pytest
import yaml
from support.tiny import BASE, assert_same_run, save_teacher

from sdkd_plugin.__main__ import main
from sdkd_plugin.sweep import together
from sdkd_plugin.sweep.execute import command_of
from sdkd_plugin.sweep.jobs import Job, read_sweep

FILE = {
    "methods": ["vanilla", "kd", "dkd", "at"],
    "pairs": ["resnet14/resnet8"],
    "seeds": [0, 1],
    "overrides": {key: value for key, value in BASE.items() if not key.startswith("DISTILLER")},
}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_teacher(tmp_path / "teacher.pth")
    return tmp_path


def sweep_file(**changes: object) -> Path:
    path = Path("sweep.yaml")
    path.write_text(yaml.safe_dump({**FILE, "teachers": {"resnet14": "teacher.pth"}, **changes}))
    return path


def seeds(groups: list[list[Job]]) -> list[tuple[set[int], int]]:
    return [({job.seed for job in group}, len(group)) for group in groups]


def test_runs_of_one_seed_and_data_stand_together(place):
    jobs = read_sweep(sweep_file()).students
    assert seeds(together.group_jobs(jobs, size=0, parts=1)) == [({0}, 4), ({1}, 4)]
    other = read_sweep(sweep_file(), ("SOLVER.BATCH_SIZE", "32")).students
    assert len(together.group_jobs([*jobs, *other], size=0, parts=1)) == 4


def test_groups_are_bounded_and_shared_out(place):
    jobs = read_sweep(sweep_file()).students
    assert seeds(together.group_jobs(jobs, size=3, parts=1)) == [({0}, 2)] * 2 + [({1}, 2)] * 2
    assert len(together.group_jobs(jobs, size=0, parts=3)) == 3
    assert len(together.group_jobs(jobs, size=0, parts=99)) == len(jobs)
    assert together.group_jobs([], size=0, parts=2) == []


def test_a_group_file_gives_the_jobs_back(place):
    jobs = read_sweep(sweep_file()).students
    together.write_group(jobs, Path("group.json"))
    assert together.read_group(Path("group.json")) == jobs


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '[{"label": "a", "cfg": "b", "settings": [1], "seed": 0}]',
        '[{"label": "a", "cfg": "b", "settings": [], "seed": true}]',
        '[{"label": "a", "cfg": "b", "settings": []}]',
    ],
)
def test_a_torn_group_file_is_one_line(content, place, capsys):
    Path("group.json").write_text(content)
    assert main(["together", "group.json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "group.json" in line


def test_a_missing_group_file_is_one_line(place, capsys):
    assert main(["together", "group.json"]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_in_lockstep_makes_the_same_runs(place, capsys):
    assert main(["sweep", str(sweep_file()), "LOG.PREFIX", "alone", "--no-lockstep"]) == 0
    assert not list(Path("alone/sweeps").rglob("group*"))
    assert main(["sweep", str(sweep_file()), "LOG.PREFIX", "together", "--jobs", "2"]) == 0
    assert len(list(Path("together/sweeps").rglob("group*.log"))) == 2
    assert not list(Path("together/sweeps").rglob("group*.json"))

    runs = sorted(path.parent.relative_to("alone") for path in Path("alone").rglob("result.json"))
    assert len(runs) == 8
    for run in runs:
        assert_same_run(Path("alone", run), Path("together", run))
        assert json.loads(Path("together", run, "result.json").read_text())["group_size"] == 4
    capsys.readouterr()
    assert main(["sweep", str(sweep_file()), "LOG.PREFIX", "together"]) == 0
    assert "8 runs, 8 of them finished" in capsys.readouterr().out


@pytest.mark.slow
def test_a_failing_run_is_told_and_the_others_are_finished(place, capsys):
    variants = {"kd": {"tame": {}, "wild": {"SOLVER.LR": 1e30}}}
    path = sweep_file(methods=["kd", "dkd"], seeds=[0], variants=variants)
    assert main(["sweep", str(path), "LOG.PREFIX", "out"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 3 runs failed" in error and "wild" in error and "not finite" in error
    assert len(list(Path("out").rglob("result.json"))) == 2


def test_a_group_whose_process_dies_is_told_with_its_last_line(place, monkeypatch):
    monkeypatch.setattr(together, "command_of", lambda name, *words: command_of("nix", *words))
    jobs = read_sweep(sweep_file(seeds=[0])).students
    outcomes = list(together.run_in_lockstep(jobs, 1, 0, Path("logs")))
    assert [job for job, _ in outcomes] == jobs
    assert all("exit code 2" in error and "nix" in error for _, error in outcomes)

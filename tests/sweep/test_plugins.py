"""A sweep over a method from outside."""

import json
from pathlib import Path

import pytest
import yaml
from support.outsider import METHOD
from support.tiny import BASE

from sdkd_plugin import plugins
from sdkd_plugin.__main__ import main
from sdkd_plugin.engine.run import train
from sdkd_plugin.errors import UserError
from sdkd_plugin.plugins import Plugin
from sdkd_plugin.sweep.command import SweepOptions, run_sweep
from sdkd_plugin.sweep.jobs import read_sweep


@pytest.fixture
def sweep(here) -> Path:
    """A sweep file with one run of the outsider, whose yaml lies in a folder beside it."""
    (here / "my_plugin.py").write_text(METHOD)
    (here / "mine").mkdir()
    tiny = {**BASE, "DISTILLER.TYPE": "OUTSIDER", "SOLVER.EPOCHS": 1, "LOG.PREFIX": "output"}
    tree: dict = {}
    for key, value in tiny.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    (here / "mine" / "res14_res8.yaml").write_text(yaml.safe_dump(tree))
    file = {"methods": ["./mine/"], "pairs": ["res14_res8"], "seeds": [0]}
    (here / "sweep.yaml").write_text(yaml.safe_dump(file))
    return here / "sweep.yaml"


def test_a_sweep_takes_a_method_by_the_path_of_its_folder(sweep):
    plugins.import_plugins(["my_plugin"])
    (job,) = read_sweep(sweep).students
    assert job.label == "mine/res14_res8 seed 0" and job.config().DISTILLER.TYPE == "OUTSIDER"
    tree = yaml.safe_load(sweep.read_text())
    # the pair of one method need not be another's
    sweep.write_text(yaml.safe_dump({**tree, "methods": ["./mine/", "kd", "vanilla"]}))
    both = read_sweep(sweep)
    assert [job.label for job in both.students] == [
        "mine/res14_res8 seed 0",
        "vanilla/resnet8 seed 0",
    ]
    assert both.undefined == ["kd/res14_res8"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["./nix"]}, r"method './nix' in .* is no folder with yaml files; allowed: "),
        ({"methods": ["./"]}, r"method './' in .*sweep.yaml is no folder with yaml files"),
        ({"methods": [{"a/b": 1}]}, r"methods in .*sweep.yaml: {'a/b': 1} is no name"),
        ({"pairs": ["res14_res9"]}, "unknown pair 'res14_res9'.*did you mean 'res14_res8'"),
        ({"variants": {"./other": {"a": {}}}}, "unknown method './other' in variants of"),
    ],
)
def test_a_faulty_method_from_outside_is_refused(sweep, change, message):
    plugins.import_plugins(["my_plugin"])
    (sweep.parent / "sweep.yaml").rename("sweeps.yaml")
    tree = yaml.safe_load(Path("sweeps.yaml").read_text())
    Path("deep").mkdir()
    Path("deep/sweep.yaml").write_text(yaml.safe_dump({**tree, **change}))
    Path("sweeps.yaml").unlink()
    with pytest.raises(UserError, match=message):
        read_sweep(Path("deep/sweep.yaml"))


def test_a_sweep_without_the_import_says_what_it_does_not_know(sweep, capsys):
    assert main(["sweep", str(sweep)]) == 2
    assert "unknown method 'OUTSIDER' in DISTILLER.TYPE" in capsys.readouterr().err


def test_a_teacher_that_nothing_trains_is_asked_for(sweep):
    (sweep.parent / "my_plugin.py").write_text(
        METHOD + "\nfrom sdkd_plugin.models.resnet import MODELS, ResNet, partial\n"
        "MODELS.register('giant')(partial(ResNet, 8, (8, 8, 8, 8)))\n"
        "Outsider.teacher_from = 'checkpoint'\n"
    )
    plugins.import_plugins(["my_plugin"])
    file = sweep.parent / "mine" / "res14_res8.yaml"
    file.write_text(file.read_text().replace("resnet14", "giant"))
    with pytest.raises(
        UserError, match="teacher giant of mine/res14_res8 has no checkpoint, and no .*giant"
    ):
        read_sweep(sweep)


def test_printed_commands_carry_the_imports(sweep, capsys):
    assert main(["sweep", "--import", "my_plugin", str(sweep), "--commands"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert " train --import my_plugin --cfg mine/res14_res8.yaml --resume " in line


@pytest.mark.slow
def test_the_processes_of_a_sweep_have_the_imports(sweep):
    assert main(["sweep", "--import", "my_plugin.py", str(sweep)]) == 0
    (result,) = sweep.parent.rglob("result.json")
    assert json.loads(result.read_text())["environment"]["plugins"][0]["module"] == "my_plugin"


@pytest.mark.slow
def test_the_workers_of_ray_have_the_imports(sweep, tmp_path_factory, monkeypatch):
    ray = pytest.importorskip("ray", reason="THE RAY EXECUTOR IS NOT TESTED: no Ray here")
    plugins.import_plugins(["my_plugin.py"])
    # ray.init starts its workers where it is called; the plugin is found from the sweep's folder
    folder = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(folder)
    ray.init("local", num_cpus=2, log_to_driver=False)  # not the cluster of another test
    monkeypatch.chdir(sweep.parent)
    try:
        run_sweep(SweepOptions(sweep, executor="ray"))
    finally:
        ray.shutdown()
    (result,) = sweep.parent.rglob("result.json")
    assert json.loads(result.read_text())["environment"]["plugins"][0]["module"] == "my_plugin"


def test_a_sweep_says_which_finished_runs_had_other_code(sweep, monkeypatch, capsys):
    options = SweepOptions(sweep, plan_only=True)
    plugins.import_plugins(["my_plugin.py"])
    (job,) = read_sweep(sweep).students
    assert train(job.config()).result is not None
    run_sweep(options)
    assert "imported code" not in capsys.readouterr().out

    (ours,) = plugins.describe_plugins()
    changed = Plugin(**{**ours, "sha256": "fedcba9876543210"})
    monkeypatch.setitem(plugins._doors.plugins, "my_plugin", changed)
    run_sweep(options)
    assert (
        f"warning: finished with other imported code (my_plugin.py {ours['sha256'][:8]} -> "
        "fedcba98): mine/res14_res8; these runs are left as they are"
    ) in capsys.readouterr().out

"""Code from outside: found, imported once, told in one line when it is wrong, and handed on to
every process that works for this one.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.installed import write_distribution
from support.tiny import BASE, tiny_yaml

from sdkd_plugin import plugins
from sdkd_plugin.__main__ import main
from sdkd_plugin.arguments import make_parser
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import sha256
from sdkd_plugin.registry import METHODS, MODELS, Registry
from sdkd_plugin.sweep.command import SweepOptions, run_sweep
from sdkd_plugin.sweep.jobs import read_sweep

METHOD = """
from sdkd_plugin.distillers.vanilla import Vanilla
from sdkd_plugin.registry import METHODS

@METHODS.register("OUTSIDER", config={"WEIGHT": 1.0})
class Outsider(Vanilla):
    pass
"""
TAKEN = METHOD.replace("OUTSIDER", "KD")
COMMANDS = {
    "train": ["--cfg", "x"],
    "eval": [],
    "table": [],
    "verify": ["x"],
    "sweep": ["x"],
    "together": ["x"],
    "demo": [],
    "link": ["x"],
    "unlink": ["x"],
    "methods": [],
    "run": ["x"],
}


@pytest.fixture
def here(tmp_path, monkeypatch, open_doors) -> Path:
    """The working directory, empty, of a process that has no plugin yet."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_imports(command):
    options = [command, "--import", "a", "--import", "b.py", *COMMANDS[command]]
    assert make_parser().parse_args(options).imports == ["a", "b.py"]
    assert make_parser().parse_args([command, *COMMANDS[command]]).imports == []


def test_every_command_there_is_is_in_the_list_above(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = re.findall(r"^    (\w+)", capsys.readouterr().out, re.MULTILINE)
    assert sorted(shown) == sorted(COMMANDS)


def test_a_module_of_the_working_directory_registers_by_its_name(here):
    (here / "my_plugin.py").write_text(METHOD)
    plugins.import_plugins(["my_plugin", "my_plugin"])
    assert METHODS["OUTSIDER"].build.__name__ == "Outsider"
    assert plugins.requested_imports() == ("my_plugin",)


def test_a_file_registers_by_its_path_and_finds_its_neighbours(here):
    (here / "deep").mkdir()
    (here / "deep" / "my_plugin.py").write_text(f"import my_helper\n{METHOD}")
    (here / "deep" / "my_helper.py").write_text("")
    plugins.import_plugins(["deep/my_plugin.py"])
    # the same file, so not a second time
    plugins.import_plugins([str(here / "deep" / "my_plugin.py")])
    assert METHODS["OUTSIDER"].place == f"{here / 'deep' / 'my_plugin.py'}:6"


def test_what_is_installed_is_not_shadowed_by_the_working_directory(here, monkeypatch):
    write_distribution(here / "site", "ware", "")
    (here / "site" / "ware-1.5.dist-info" / "top_level.txt").write_text("ware\n")
    (here / "site" / "ware.py").write_text(METHOD)
    (here / "ware.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(here / "site")
    plugins.import_plugins(["ware"])
    expected = {"module": "ware", "distribution": "ware", "version": "1.5"}
    assert plugins.describe_plugins() == [{**expected, "sha256": sha256("site/ware.py")}]


WRONG = [
    ("nix", "", "--import nix: there is no module 'nix', neither installed nor in the working dir"),
    ("nix.deep", "", "--import nix.deep: there is no module 'nix', neither installed"),
    ("json.nix", "", "--import json.nix: there is no module 'json.nix'"),
    ("my-plugin", "", "--import 'my-plugin' is no module; allowed: an importable name"),
    ("", "", "--import '' is no module"),
    ("nix.py", "", "--import nix.py: the file does not exist"),
    (
        "./my_plugin",
        "",
        "--import './my_plugin' is no path of a module; allowed: the path of a .py",
    ),
    ("my-plugin.py", "", "--import 'my-plugin.py' is no path of a module"),
    ("json.py", "", "--import json.py: a module named 'json' is there already, from /"),
    ("sys.py", "", "a module named 'sys' is there already, from Python itself; rename the file"),
    (
        "my_plugin",
        "\n1 / 0",
        "module my_plugin (--import) cannot be imported: ZeroDivisionError: division by zero "
        "({here}/my_plugin.py:2)",
    ),
    (
        "my_plugin.py",
        "\n1 / 0",
        "module my_plugin.py (--import) cannot be imported: ZeroDivisionError: division by zero "
        "({here}/my_plugin.py:2)",
    ),
    ("my_plugin", "def", "cannot be imported: SyntaxError: invalid syntax (my_plugin.py, line 1)"),
    ("my_plugin", "raise SystemExit(0)", "cannot be imported: SystemExit: 0 ({here}/my_plugin.py"),
    (
        "my_plugin",
        "import nix",
        "cannot be imported: ModuleNotFoundError: No module named 'nix' ({here}/my_plugin.py:1)",
    ),
    ("my_plugin", f"import sdkd_plugin.distillers.kd\n{TAKEN}", "method 'KD' is registered twice"),
]


@pytest.mark.parametrize(
    ("name", "source", "message"), WRONG, ids=lambda part: str(part).strip()[:25]
)
def test_a_wrong_import_is_one_line_and_exit_code_2(here, capsys, name, source, message):
    for file in ("my_plugin.py", "my-plugin.py", "json.py", "sys.py"):
        (here / file).write_text(source)
    assert main(["train", "--import", name, "--cfg", "x.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error
    assert message.format(here=here) in error
    assert "my_plugin" not in sys.modules and plugins.requested_imports() == ()


def test_a_taken_name_names_both_places_whoever_comes_first(here):
    """In a process of its own, where the package's KD is not there yet when the plugin is."""
    (here / "my_plugin.py").write_text(TAKEN)
    command = ["-m", "sdkd_plugin", "train", "--import", "my_plugin", "--cfg", "x.yaml"]
    done = subprocess.run([sys.executable, *command], cwd=here, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "method 'KD' is registered twice: " in done.stderr
    assert f"{here / 'my_plugin.py'}:5" in done.stderr and "distillers/kd.py:" in done.stderr


def test_entry_points_load_once_when_a_registry_is_first_asked(here, monkeypatch):
    count = "open('count', 'a').write('x')\nfrom sdkd_plugin.registry import METHODS\nMETHODS['KD']"
    (here / "lazy_plugin.py").write_text(f"{count}\n{METHOD}")
    write_distribution(here, "lazy", "mine = lazy_plugin")
    monkeypatch.syspath_prepend(here)
    Registry("animal", "CAGE", "sdkd_plugin.data")
    assert not Path("count").exists()
    assert METHODS["OUTSIDER"].info == {"config": {"WEIGHT": 1.0}}
    # they are not looked for again
    monkeypatch.delattr(plugins, "entry_points")
    assert MODELS["resnet8"] and list(METHODS)
    assert Path("count").read_text() == "x"
    expected = {"module": "lazy_plugin", "distribution": "lazy", "version": "1.5"}
    assert plugins.describe_plugins() == [{**expected, "sha256": sha256("lazy_plugin.py")}]
    # entry points come by themselves in every process
    assert plugins.requested_imports() == ()


@pytest.mark.parametrize(
    ("entry_points", "source", "message"),
    [
        ("mine = faulty", "1 / 0", "ZeroDivisionError: division by zero ({here}/faulty.py:1)"),
        ("mine = nix", "", "ModuleNotFoundError: No module named 'nix'"),
        ("mine = faulty:thing", "", "ModuleNotFoundError: No module named 'faulty:thing'"),
        ("mine = faulty", TAKEN, "method 'KD' is registered twice: "),
    ],
)
def test_an_entry_point_that_fails_names_its_distribution_each_time(
    here, monkeypatch, entry_points, source, message
):
    (here / "faulty.py").write_text(source)
    write_distribution(here, "broken-ware", entry_points)
    monkeypatch.syspath_prepend(here)
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            METHODS["KD"]
        told = str(caught.value)
        assert "(entry point 'mine' of distribution broken-ware 1.5) cannot be imported: " in told
        assert message.format(here=here) in told


def test_a_run_names_the_plugins_it_was_made_with(here):
    (here / "my_plugin.py").write_text(METHOD)
    config = tiny_yaml(here, {"SOLVER.EPOCHS": 1})
    command = ["train", "--import", "my_plugin.py", "--cfg", config]
    assert main([*command, "DISTILLER.TYPE", "OUTSIDER", "OUTSIDER.WEIGHT", "2"]) == 0
    (path,) = here.rglob("environment.json")
    loose = {"module": "my_plugin", "distribution": None, "version": None}
    assert json.loads(path.read_text())["plugins"] == [{**loose, "sha256": sha256("my_plugin.py")}]
    (identity,) = here.rglob("identity.json")
    assert json.loads(identity.read_text())["OUTSIDER.WEIGHT"] == 2.0


# A sweep over a method from outside.


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

"""Code from outside: found, imported once, told in one line when it is wrong, and handed on to
every process that works for this one.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.installed import write_distribution
from support.outsider import METHOD
from support.tiny import tiny_yaml

from sdkd_plugin import plugins
from sdkd_plugin.__main__ import main
from sdkd_plugin.arguments import make_parser
from sdkd_plugin.errors import UserError
from sdkd_plugin.files import sha256
from sdkd_plugin.registry import METHODS, MODELS, Registry

TAKEN = METHOD.replace("OUTSIDER", "KD")
COMMANDS = {
    "train": ["--cfg", "x"],
    "eval": [],
    "table": [],
    "verify": ["x"],
    "data": [],
    "sweep": ["x"],
    "together": ["x"],
    "watch": ["x"],
    "align": ["x"],
    "proxy": ["x"],
    "examine": ["x"],
    "attention": ["x"],
    "landscape": ["x"],
    "card": ["x"],
    "export": ["x"],
    "completion": ["bash"],
    "demo": [],
    "link": ["x"],
    "unlink": ["x"],
    "methods": [],
    "run": ["x"],
}


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


def test_the_loose_files_that_a_plugin_imports_are_taken_down_too(here, monkeypatch):
    """Not what has a version: Python's own, this package's and what is installed."""
    for name in ("mine", "site-packages"):
        (here / name).mkdir()
    (here / "site-packages" / "ware.py").write_text("import late")
    (here / "site-packages" / "late.py").write_text("")
    monkeypatch.syspath_prepend(here / "site-packages")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    monkeypatch.delitem(sys.modules, "sdkd_plugin.demo", raising=False)
    odd = ModuleType("odd")
    odd.__file__ = "_odd.py"  # as torch.classes has it
    monkeypatch.setattr(sys, "odd", odd, raising=False)
    monkeypatch.setitem(sys.modules, "odd", odd)
    monkeypatch.delitem(sys.modules, "odd")
    (here / "mine" / "my_plugin.py").write_text("import my_helper")
    (here / "mine" / "my_helper.py").write_text(
        "import sys, colorsys, ware, sdkd_plugin.demo\nsys.modules['odd'] = sys.odd"
    )
    plugins.import_plugins(["mine/my_plugin.py"])
    loose = {"distribution": None, "version": None}
    assert plugins.describe_plugins() == [
        {"module": name, "given": given, **loose, "sha256": sha256(f"mine/{name}.py")}
        for name, given in (("my_helper", None), ("my_plugin", "mine/my_plugin.py"))
    ]


def test_what_is_installed_is_not_shadowed_by_the_working_directory(here, monkeypatch):
    write_distribution(here / "site", "ware", "")
    (here / "site" / "ware-1.5.dist-info" / "top_level.txt").write_text("ware\n")
    (here / "site" / "ware.py").write_text(METHOD)
    (here / "ware.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(here / "site")
    plugins.import_plugins(["ware"])
    expected = {"module": "ware", "given": "ware", "distribution": "ware", "version": "1.5"}
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
    expected = {"module": "lazy_plugin", "given": "lazy_plugin", "distribution": "lazy"}
    expected["version"] = "1.5"
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
    loose = {"module": "my_plugin", "given": "my_plugin.py", "distribution": None, "version": None}
    assert json.loads(path.read_text())["plugins"] == [{**loose, "sha256": sha256("my_plugin.py")}]
    (identity,) = here.rglob("identity.json")
    assert json.loads(identity.read_text())["OUTSIDER.WEIGHT"] == 2.0

"""The house's order: a room imports from rooms below it, never from one above.

The same list stands in the README's Layout, top first.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sdkd_plugin"
ROOMS = (  # top first
    "__main__",
    "commands",
    "api",
    "own_loop",
    "completion",
    "arguments",
    "demo",
    "studies",
    "ship",
    "sweep",
    "table",
    "upstream",
    "engine",
    "runs",
    "distillers",
    "data",
    "models",
)
GROUND = (  # knows no method
    *("idle", "config", "settings", "strict_yaml", "renames", "defaults", "allowed"),
    *("weights", "forms", "files", "randomness", "signals", "plugins", "registry"),
    *("printable", "errors"),
)


def rank(module: str) -> int:
    """How high a module of the package stands; the ground floor and the package itself are 0."""
    room = module.split(".")[1] if "." in module else "errors"
    return len(ROOMS) - ROOMS.index(room) if room in ROOMS else 0


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST) -> set[str]:
    """Every module of the package that a file imports, wherever in the file it does."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that they can be read"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] == PACKAGE.name}


def upward(module: str, names: set[str]) -> set[str]:
    return {name for name in names if rank(name) > rank(module)}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_room_imports_from_rooms_below_it_only(path):
    found = upward(module_name(path), imported(ast.parse(path.read_text())))
    assert not found, f"{path.relative_to(ROOT)} imports from a room above its own"


def test_every_room_has_its_place_in_the_order():
    rooms = {module_name(path).split(".")[1] for path in FILES if path.parent != PACKAGE}
    files = {path.stem for path in FILES if path.parent == PACKAGE} - {"__init__"}
    assert rooms | files == set(ROOMS) | set(GROUND)


def test_an_arrow_that_runs_up_is_found():
    tree = ast.parse("def f():\n    from sdkd_plugin.table import cells")
    assert upward("sdkd_plugin.engine.run", imported(tree)) == {
        "sdkd_plugin.table",
        "sdkd_plugin.table.cells",
    }
    assert upward("sdkd_plugin.sweep.jobs", imported(tree)) == set()
    tree = ast.parse("from sdkd_plugin import models")
    assert upward("sdkd_plugin.files", imported(tree)) == {"sdkd_plugin.models"}


def test_the_ground_floor_knows_no_method():
    for name in GROUND:
        text = (PACKAGE / f"{name}.py").read_text()
        assert not imported(ast.parse(text)) & {"sdkd_plugin.distillers", "sdkd_plugin.models"}


def test_the_readme_prints_the_same_order():
    layout = (ROOT / "README.md").read_text().split("## Layout")[1].split("\n## ")[0]
    listed = re.findall(r"^      (\w+)(?:/|\.py)", layout, re.MULTILINE)
    assert listed == list(ROOMS)
    ground = re.search(r"^      the ground floor: (.*)$", layout, re.MULTILINE).group(1)
    assert re.findall(r"(\w+)\.py", ground) == list(GROUND)

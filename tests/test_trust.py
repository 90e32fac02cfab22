"""docs/trust.md names only tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_test_that_a_promise_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/trust.md").read_text())
    assert len(named) > 20
    for file, name in named:
        functions = ast.walk(ast.parse((ROOT / file).read_text()))
        assert any(isinstance(f, ast.FunctionDef) and f.name == name for f in functions), name

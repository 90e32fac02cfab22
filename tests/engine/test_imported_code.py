"""A run that goes on, is asked for again or is scored with other code from outside says so."""

import json
import sys
from pathlib import Path

import pytest
from support.outsider import METHOD
from support.tiny import result, tiny_config, train_until_killed

from sdkd_plugin import plugins
from sdkd_plugin.engine.lockstep import train_together
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.score import score
from sdkd_plugin.files import sha256
from sdkd_plugin.registry import METHODS

OURS = "my_plugin.py"


def let_in(source: str) -> str:
    """Imports the file anew, with this in it, as another process would; its hash."""
    Path(OURS).write_text(source)
    sys.modules.pop("my_plugin", None)
    METHODS._entries.pop("OUTSIDER", None)
    plugins._doors = plugins._Doors({}, [], opened=True)
    plugins.import_plugins([OURS])
    return sha256(OURS)


@pytest.fixture
def killed(here):
    """A run of the outsider that ended in its second epoch; its config, and its plugin's hash."""
    digest = let_in(METHOD)
    cfg = tiny_config(here / "runs", {"DISTILLER.TYPE": "OUTSIDER"})
    train_until_killed(cfg, steps=4)
    return cfg, digest


def recorded(folder: Path) -> list[tuple[str, int | None]]:
    """What result.json says of the plugin; environment.json says the same."""
    ours = result(folder)["environment"]["plugins"]
    assert json.loads((folder / "environment.json").read_text())["plugins"] == ours
    return [(each["sha256"], each.get("from_epoch")) for each in ours]


def warnings(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]


def test_a_run_that_goes_on_with_other_code_says_so_and_records_both(killed, capsys):
    cfg, old = killed
    assert warnings(capsys) == []
    new = let_in(METHOD + "# changed")
    folder = train(cfg, resume=True).path
    assert warnings(capsys) == [
        f"warning: {folder} goes on after epoch 1 with other imported code than before: "
        f"{OURS} {old[:8]} -> {new[:8]}"
    ]
    assert recorded(folder) == [(old, None), (new, 2)]


def test_the_same_code_is_no_change(killed, capsys):
    cfg, old = killed
    folder = train(cfg, resume=True).path
    assert warnings(capsys) == [] and recorded(folder) == [(old, None)]


def test_a_run_without_an_epoch_begins_anew_with_the_code_there_is(here, capsys):
    let_in(METHOD)
    cfg = tiny_config(here / "runs", {"DISTILLER.TYPE": "OUTSIDER"})
    train_until_killed(cfg, steps=1)
    new = let_in(METHOD + "# changed")
    assert recorded(train(cfg, resume=True).path) == [(new, None)] and warnings(capsys) == []


def test_runs_in_lockstep_say_it_each(killed, capsys):
    cfg, old = killed
    new = let_in(METHOD + "# changed")
    assert list(train_together([cfg])) == [(0, None)]
    (line,) = warnings(capsys)
    assert line.endswith(f" {OURS} {old[:8]} -> {new[:8]}")
    (folder,) = {path.parent for path in Path("runs").rglob("result.json")}
    assert recorded(folder) == [(old, None), (new, 2)]


def test_a_finished_run_says_what_it_was_made_with(killed, capsys):
    cfg, old = killed
    folder = train(cfg, resume=True).path
    new = let_in(METHOD + "# changed")
    capsys.readouterr()
    changed = f"{OURS} {old[:8]} -> {new[:8]}"

    train(cfg)
    assert warnings(capsys) == [f"warning: it was made with other imported code: {changed}"]
    score(str(folder), [])
    assert warnings(capsys) == [
        f"warning: {folder} was trained with other imported code: {changed}"
    ]

"""Keys and values that had another name at first: both count, and old runs keep their names."""

import json
from pathlib import Path

import pytest
import yaml
from support.configs import value, yaml_file

from sdkd_plugin.config import (
    active_config,
    load_config,
)
from sdkd_plugin.errors import UserError
from sdkd_plugin.renames import current_names, first_names
from sdkd_plugin.settings import flatten

# what these keys were called in run folders, yaml files and command lines up to 0.1.0
FIRST_NAMES = {
    "AB.TEMPERATURE": "AB.TAU",
    "FSP.TEMPERATURE": "FSP.TAU",
    "FITNET.TEMPERATURE": "FITNET.TAU",
    "DML.T": "DML.TAU",
    "SRRL.T": "SRRL.TAU",
    "SEMCKD.T": "SEMCKD.TAU",
    "NORM.T": "NORM.TAU",
    "SOTEACHER.KD.T": "SOTEACHER.KD.TAU",
}


@pytest.mark.parametrize("first, today", FIRST_NAMES.items())
def test_the_first_name_of_a_key_sets_it_in_a_file_and_on_the_command_line(first, today, tmp_path):
    assert value(today, first, "2.5") == 2.5
    tree: object = 3
    for part in reversed(first.split(".")):
        tree = {part: tree}
    path = yaml_file(tmp_path, yaml.safe_dump(tree))
    assert value(today, path=path) == 3.0
    # a command line of either age has its way with a file of either age
    assert value(today, first, "2.5", path=path) == value(today, today, "2.5", path=path) == 2.5
    assert first not in dict(flatten(load_config(path)))
    with pytest.raises(UserError, match=rf"^{first} in the command line is 'a' \(str\)"):
        load_config(None, [first, "a"])


def test_both_names_at_once_must_agree(tmp_path):
    assert value("AB.TAU", "AB.TEMPERATURE", "3", "AB.TAU", "3.0") == 3.0
    assert value("AB.TAU", "AB.TEMPERATURE", "3", "AB.TEMPERATURE", "5") == 5.0
    message = "sets AB.TEMPERATURE 3.0 and AB.TAU 4.0, which are two names of one key; keep one"
    with pytest.raises(UserError, match=f"the command line {message}"):
        load_config(None, ["AB.TEMPERATURE", "3", "AB.TAU", "4"])
    with pytest.raises(UserError, match=f"some.yaml {message}"):
        load_config(yaml_file(tmp_path, "AB: {TEMPERATURE: 3, TAU: 4}"))
    with pytest.raises(UserError, match="sets AB.TEMPERATURE 3.0 and AB.TAU 4.0"):
        current_names({"AB.TAU": 4.0, "AB.TEMPERATURE": 3.0})


def test_the_first_name_of_the_phased_trainer_is_still_one():
    assert value("SOLVER.TRAINER", "SOLVER.TRAINER", "stages") == "phases"
    with pytest.raises(UserError, match="unknown value 'stage' in SOLVER.TRAINER"):
        load_config(None, ["SOLVER.TRAINER", "stage"])


def test_mdistillers_dot_trainer_is_our_optimiser(tmp_path):
    kd = "DISTILLER: {TYPE: KD}\n"
    for trainer in ("dot", "crd_dot"):
        cfg = load_config(yaml_file(tmp_path, f"{kd}SOLVER: {{TRAINER: {trainer}}}"))
        assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.TRAINER) == ("dot", "base")
        off = load_config(tmp_path / "some.yaml", ["SOLVER.OPTIMIZER", "sgd"])
        assert off.SOLVER.OPTIMIZER == "sgd"
    message = "SOLVER.OPTIMIZER 'sgd' and SOLVER.TRAINER 'dot', which are two names of one key"
    with pytest.raises(UserError, match=f"the command line sets {message}"):
        load_config(None, ["SOLVER.OPTIMIZER", "sgd", "SOLVER.TRAINER", "dot"])
    assert first_names({"SOLVER.OPTIMIZER": "dot"}) == {"SOLVER.TRAINER": "dot"}


def test_names_there_and_back():
    first = {**dict.fromkeys(FIRST_NAMES, 2.0), "SOLVER.TRAINER": "stages"}
    today = {**dict.fromkeys(FIRST_NAMES.values(), 2.0), "SOLVER.TRAINER": "phases"}
    # the same word elsewhere is another word; keys of mdistiller's nodes never had another name
    rest = {"KD.TEMPERATURE": 4.0, "DKD.T": 4.0, "EXPERIMENT.TAG": "phases", "SDKD.STAGES": [1]}
    assert current_names({**first, **rest}) == {**today, **rest} == current_names(today | rest)
    assert first_names({**today, **rest}) == {**first, **rest} == first_names(first | rest)
    assert first_names({"SOLVER.TRAINER": "base", "data": None}) == {
        "SOLVER.TRAINER": "base",
        "data": None,
    }


RUNS = sorted((Path(__file__).resolve().parents[1] / "results" / "smoke").rglob("identity.json"))


def old(path: Path) -> bool:
    """Whether a run was written before any key had another name: its record has no schema."""
    return "schema" not in json.loads((path.parent / "result.json").read_text())


def test_configs_of_old_runs_load_and_name_themselves_as_they_did():
    seen = set()
    for path in filter(old, RUNS):
        written = json.loads(path.read_text())
        cfg = load_config(path.parent / "config.yaml")
        first = first_names(dict(flatten(active_config(cfg))))
        assert written.keys() - first.keys() <= {"data", "teacher"}
        assert {key: first[key] for key in written.keys() & first.keys()} == {
            key: value for key, value in written.items() if key not in ("data", "teacher")
        }, path
        seen |= written.keys()
    assert FIRST_NAMES.keys() <= seen

"""Our config beside mdistiller's own."""

import importlib
import os
import sys
import types
from pathlib import Path

import pytest
from yacs.config import CfgNode as CN

from sdkd_plugin.config import (
    check_config,
    default_config,
    load_config,
)
from sdkd_plugin.defaults import DEFAULTS, todays_setting
from sdkd_plugin.registry import METHODS
from sdkd_plugin.settings import flatten

ALL = [entry.name for entry in METHODS]
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "cifar100"


@pytest.fixture(scope="module")
def shared_config() -> tuple[CN, Path]:
    """mdistiller's own config and its folder of cifar100 yaml files."""
    root = os.environ.get("MDISTILLER_ROOT")
    if not root:
        pytest.skip("MDISTILLER_ROOT is not set: THE CONFIG IS NOT COMPARED WITH A REAL mdistiller")
    # its engine's __init__ imports every trainer, and with them wandb
    stub = types.ModuleType("upstream_engine")
    stub.__path__ = [str(Path(root, "mdistiller", "engine"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "upstream_engine", stub)
        return importlib.import_module("upstream_engine.cfg").CFG, Path(root, "configs", "cifar100")


def test_shared_keys_have_mdistillers_defaults(shared_config):
    theirs, ours = dict(flatten(shared_config[0])), dict(flatten(default_config()))
    methods = {node for node in shared_config[0] if node in ALL}
    shared = {key for key in theirs if key.split(".")[0] in methods | set(DEFAULTS)}
    assert len(shared) > 30
    different = {
        key: (theirs[key], ours.get(key)) for key in shared if as_list(theirs[key]) != ours.get(key)
    }
    # theirs asks for an account unless a file says otherwise; here a file must ask for it
    assert different == {"LOG.WANDB": (True, False)}


def as_list(leaf: object) -> object:
    return list(leaf) if isinstance(leaf, tuple) else leaf


def test_mdistillers_yaml_files_load_unchanged_and_mean_the_same(shared_config):
    defaults, folder = shared_config
    loaded = []
    for path in sorted(folder.rglob("*.yaml")):
        theirs = defaults.clone()
        theirs.merge_from_file(str(path))
        if theirs.DISTILLER.TYPE not in ALL:
            continue
        ours = dict(flatten(load_config(path)))
        for their_key, their_leaf in flatten(theirs):
            key, leaf = todays_setting(their_key, their_leaf)  # TRAINER dot is OPTIMIZER dot here
            if key.split(".")[0] in {*DEFAULTS, theirs.DISTILLER.TYPE}:
                assert key == "LOG.WANDB" or ours[key] == as_list(leaf), f"{path}: {key}"
        check_config(load_config(path))
        loaded.append(path.name)
    assert {"vanilla.yaml", "kd.yaml", "crd.yaml", "res56_res20.yaml", "res32x4_shuv2.yaml"} <= set(
        loaded
    ) and len(loaded) >= 17


def test_our_file_of_a_pair_has_the_values_of_mdistillers(shared_config):
    defaults, folder = shared_config
    ours = {}
    for entry in METHODS:
        name = entry.build.__module__.rsplit(".")[-1]
        for path in (CONFIGS / name).glob("*.yaml"):
            cfg = load_config(path)
            ours[entry.name, cfg.DISTILLER.TEACHER, cfg.DISTILLER.STUDENT] = dict(flatten(cfg))

    different, compared = set(), []
    for path in sorted(folder.rglob("*.yaml")):
        theirs = defaults.clone()
        theirs.merge_from_file(str(path))
        names = theirs.DISTILLER
        if names.TYPE == "NONE" or path.parent.name == "dot":
            continue  # each model alone has a file here; DOT is an option of every method
        mine = ours[names.TYPE, names.TEACHER, names.STUDENT]
        compared.append((names.TYPE, names.TEACHER, names.STUDENT))
        for key, leaf in flatten(theirs):
            node = key.split(".")[0]
            if node in ("SOLVER", names.TYPE) and mine[key] != as_list(leaf):
                different.add((*compared[-1], key))
    assert len(compared) == len(set(compared)) == 12 + 11  # one file for each method, but DKD
    assert not different

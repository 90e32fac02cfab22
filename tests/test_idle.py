"""Keys without effect: no part of a run's identity, and said when they are set."""

import pytest
from support.tiny import BASE, tiny_yaml, words

from sdkd_plugin.__main__ import main
from sdkd_plugin.config import configs_folder, default_config, load_config
from sdkd_plugin.idle import idle_keys, idle_note, usual_values
from sdkd_plugin.registry import METHODS
from sdkd_plugin.runs.folder import RunFolder
from sdkd_plugin.runs.identity import run_identity
from sdkd_plugin.settings import flatten

FILES = sorted((configs_folder() / "cifar100").glob("*/*.yaml"))
OTHER = {str: "crd", float: 0.5, int: 999, list: [1, 2], bool: True}


def folder(file, *overrides: str) -> RunFolder:
    cfg = load_config(file, ["LOG.PREFIX", "nowhere", *overrides])
    taught = METHODS[cfg.DISTILLER.TYPE].build.teacher_from == "checkpoint"
    return RunFolder(cfg, run_identity(cfg, {"data": "d"}, "t" if taught else None))


@pytest.mark.parametrize("key", sorted(idle_keys()))
def test_an_idle_key_is_no_part_of_an_identity(key):
    method = key.split(".")[0]
    name = method.lower() if method in {entry.name for entry in METHODS} else "kd"
    file = configs_folder() / "cifar100" / name / "res56_res20.yaml"
    value = dict(flatten(default_config()))[key]
    usual, other = folder(file), folder(file, key, str(OTHER[type(value)]))
    assert usual.path == other.path and usual.identity == other.identity


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_usual_values_are_those_of_the_files_that_ship(file):
    """So that the names of run folders, which were made of them, have not changed."""
    cfg = load_config(file)
    said = dict(flatten(cfg))
    usual = usual_values(cfg)
    assert {key for key in usual if key.startswith(f"{cfg.DISTILLER.TYPE}.")} <= idle_keys()
    for key, value in usual.items():
        assert said[key] == value, key


def test_setting_one_says_that_it_does_nothing(tmp_path):
    shipped = configs_folder() / "cifar100" / "crd" / "res56_res20.yaml"
    assert idle_note(shipped, []) is None
    assert idle_note(shipped, ["SOLVER.LR", "1"]) is None
    note = idle_note(shipped, ["LOG.TENSORBOARD_FREQ", "9", "CRD.FEAT.STUDENT_DIM", "3"])
    assert note.endswith("read by mdistiller only: CRD.FEAT.STUDENT_DIM, LOG.TENSORBOARD_FREQ")
    mine = tmp_path / "mine.yaml"
    mine.write_text("SOLVER: {TRAINER: crd}")
    assert idle_note(mine, []).endswith("SOLVER.TRAINER")
    (tmp_path / "identity.json").write_text("{}")  # as in a run folder, whose config names all keys
    assert idle_note(mine, []) is None


@pytest.mark.parametrize("setting", ["SOLVER.OPTIMIZER", "SOLVER.TRAINER"])
def test_with_dot_its_keys_have_an_effect(setting, tmp_path):
    dot = [setting, "dot", "SOLVER.DOT.DELTA", "0.05"]
    shipped = configs_folder() / "cifar100" / "kd" / "res56_res20.yaml"
    assert idle_note(shipped, dot) is None
    assert idle_note(shipped, dot[2:]).endswith("only: SOLVER.DOT.DELTA")
    mine = tmp_path / "mine.yaml"
    mine.write_text("SOLVER: {TRAINER: crd_dot}")
    assert idle_note(mine, dot[2:]) is None
    assert idle_note(mine, ["LOG.TENSORBOARD_FREQ", "9"]).endswith("only: LOG.TENSORBOARD_FREQ")
    off = ["SOLVER.OPTIMIZER", "sgd", *dot[2:]]
    assert idle_note(mine, off).endswith("only: SOLVER.DOT.DELTA")


def test_train_says_it(tmp_path, capsys):
    yaml = tiny_yaml(tmp_path)
    assert main(["train", "--cfg", yaml, "--dry-run", "VID.INPUT_SIZE", "[1, 1]"]) == 0
    assert "note: without effect here" in capsys.readouterr().out


def test_what_overrides_make_of_a_file_names_its_folder():
    file = "configs/cifar100/kd/res56_res20.yaml"
    other = ["DISTILLER.TEACHER", "resnet14", "DISTILLER.STUDENT", "resnet8"]
    assert load_config(file).EXPERIMENT.TAG == "kd,res56,res20"
    assert load_config(file, other).EXPERIMENT.TAG == "kd,resnet14,resnet8"
    assert load_config(file, ["DISTILLER.TYPE", "DKD"]).EXPERIMENT.TAG == "dkd,resnet56,resnet20"
    assert load_config(file, ["DISTILLER.TYPE", "NONE"]).EXPERIMENT.TAG == "vanilla,resnet20"
    assert load_config(file, ["SOLVER.LR", "1"]).EXPERIMENT.TAG == "kd,res56,res20"
    assert load_config(file, [*other, "EXPERIMENT.TAG", "mine"]).EXPERIMENT.TAG == "mine"
    alone = "configs/cifar100/vanilla/resnet20.yaml"
    assert load_config(alone, other[:2]).EXPERIMENT.TAG == "vanilla,resnet20"
    assert load_config(None, [*words(BASE), *other]).EXPERIMENT.TAG == "default"


@pytest.mark.parametrize(
    ("overrides", "old"),
    [
        (["CRD.FEAT.STUDENT_DIM", "999"], "crd_res56_res20"),
        (["SOLVER.TRAINER", "base"], "crd_res56_res20"),
        (["DISTILLER.STUDENT", "resnet8"], "crd_res56_res20"),
        (["DISTILLER.STUDENT", "resnet8", "SOLVER.TRAINER", "base"], "crd_res56_res20"),
    ],
)
def test_the_folder_of_an_earlier_version_is_found(overrides, old, tmp_path):
    file = configs_folder() / "cifar100" / "crd" / "res56_res20.yaml"
    given = ["LOG.PREFIX", str(tmp_path), *overrides]
    cfg = load_config(file, given)
    identity = run_identity(cfg, {"data": "d"}, "t")
    fresh = RunFolder(cfg, identity)
    flat = dict(flatten(cfg))
    digest = fresh._digest({key: flat[key] for key in usual_values(cfg)})  # all keys as given
    before = fresh.path.parents[1] / f"{old}-{digest}" / "seed0"
    assert fresh.path != before
    before.mkdir(parents=True)
    assert RunFolder(cfg, identity).path == fresh.path, "an empty folder is no run"
    (before / "identity.json").write_text("{}")
    assert RunFolder(cfg, identity).path == before
    named = load_config(file, [*given, "EXPERIMENT.NAME", "mine"])
    assert RunFolder(named, identity).path.parent.name == "mine"

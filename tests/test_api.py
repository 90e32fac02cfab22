"""What a notebook gets: imported late, and the same as the commands."""

import builtins
import subprocess
import sys

import pytest
from support.tiny import BASE, assert_same_run, tiny_yaml, words

import sdkd_plugin
from sdkd_plugin import UserError
from sdkd_plugin.__main__ import main
from sdkd_plugin.sweep.command import SweepOptions


def test_the_import_brings_nothing_slow_and_each_name_is_there():
    code = (
        "import sys, sdkd_plugin\n"
        "assert set(sdkd_plugin.__all__) <= set(dir(sdkd_plugin))\n"
        "slow = {'torch', 'numpy', 'yacs', 'pandas', 'sdkd_plugin.api', 'sdkd_plugin.sweep'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
        "assert all(callable(getattr(sdkd_plugin, n)) for n in sdkd_plugin.__all__[1:])\n"
        "import sdkd_plugin.sweep.command, sdkd_plugin.table.report\n"
        "assert callable(sdkd_plugin.sweep) and callable(sdkd_plugin.table)\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = sdkd_plugin.trian


def test_a_run_is_that_of_the_command_line(tmp_path):
    settings = {**BASE, "SOLVER.EPOCHS": 1, "LOG.PREFIX": tmp_path / "one"}
    run = sdkd_plugin.train(sdkd_plugin.load_config(None, settings))
    yaml = tiny_yaml(tmp_path, {"SOLVER.EPOCHS": 1})
    assert main(["train", "--cfg", yaml, "LOG.PREFIX", str(tmp_path / "two")]) == 0
    assert_same_run(run.path, next((tmp_path / "two").rglob("seed0")))

    scores = sdkd_plugin.evaluate(run.path)
    assert scores == pytest.approx(run.result.last)
    other = sdkd_plugin.evaluate(run.path, {"DATASET.MEAN": "[0, 0, 0]"})
    assert other["loss"] != scores["loss"]


def test_overrides_are_a_dict_or_words_and_nothing_else(tmp_path):
    given = {**BASE, "SOLVER.LR": 0.1, "DATASET.MEAN": [0.5, 0.5, 0.5]}
    cfg = sdkd_plugin.load_config(None, given)
    assert cfg == sdkd_plugin.load_config(None, words(given)) and cfg.SOLVER.LR == 0.1
    assert cfg.DATASET.MEAN == [0.5, 0.5, 0.5]
    with pytest.raises(UserError, match="overrides are 'SOLVER.LR 1'; allowed: a dict"):
        sdkd_plugin.load_config(None, "SOLVER.LR 1")
    with pytest.raises(UserError, match="unknown config key 'SOLVER.LERNRATE'"):
        sdkd_plugin.load_config(None, {"SOLVER.LERNRATE": 1})


def test_a_table_is_a_frame_of_every_cell_and_of_what_does_not_count(make_run):
    pytest.importorskip("pandas", reason="needs the extra pandas")
    for seed, top1 in enumerate((69.0, 71.0, 73.0)):
        make_run("KD", seed, [60.0, top1])
    folder = make_run("SDKD", 0, [80.0, 73.5]).parents[2]
    (folder / "torn" / "seed0").mkdir(parents=True)
    (folder / "torn" / "seed0" / "result.json").write_text("{")

    frame = sdkd_plugin.table(folder, versus="SDKD")
    cells = frame[frame.status == "cell"].set_index("method")
    assert list(cells.index) == ["KD", "SDKD"]
    # by hand: the mean of 69, 71 and 73, and their sample standard deviation
    assert (cells.last_mean["KD"], cells.last_sd["KD"], cells.n["KD"]) == (71.0, 2.0, 3)
    assert cells.versus_difference["KD"] == 4.5
    assert list(frame.status)[2:] == ["invalid"]
    assert sdkd_plugin.table(published="poster").method.iloc[-1] == "Gain"


def test_without_pandas_the_extra_is_named(make_run, monkeypatch):
    folder = make_run("KD", 0, [70.0])
    whole_import = builtins.__import__

    def refuse(name, *rest, **named):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(name)
        return whole_import(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install 'sdkd-plugin\[pandas\]'"):
        sdkd_plugin.table(folder)


def test_a_sweep_returns_its_students_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text(
        "methods: [vanilla]\npairs: [resnet14/resnet8]\nseeds: [0, 1]\n"
        "overrides: {DATASET.TYPE: digits, DATASET.SUBSET: 0.1}\n"
    )
    asked = []
    monkeypatch.setattr("sdkd_plugin.sweep.command.run_sweep", asked.append)
    folders = sdkd_plugin.sweep("sweep.yaml", {"SOLVER.EPOCHS": 1}, jobs=2)
    (options,) = asked
    assert isinstance(options, SweepOptions)
    assert (options.overrides, options.jobs) == (("SOLVER.EPOCHS", "1"), 2)
    assert [folder.name for folder in folders] == ["seed0", "seed1"]

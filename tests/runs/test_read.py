import gc
import json
import shutil
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import FORMATS
from sdkd_plugin.runs import read
from sdkd_plugin.runs.read import read_runs
from sdkd_plugin.table.report import TableOptions, make_report


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def only_reason(folder) -> str:
    runs, rejected = read_runs([folder])
    assert runs == [] and len(rejected) == 1
    return rejected[0].reason


def test_finished_run_is_read(make_run):
    path = make_run("KD", 3, [50.0, 61.0, 60.0])
    (run,), rejected = read_runs([path.parents[2]])
    assert rejected == [] and run.path == path
    assert (run.method, run.teacher, run.student) == ("KD", "resnet56", "resnet20")
    assert (run.seed, run.epochs) == (3, 3)
    assert run.curve == ((1, 50.0), (2, 61.0), (3, 60.0))
    assert (run.result.last["top1"], run.result.best["top1"]) == (60.0, 61.0)
    assert run.recipe == {"KD.TEMPERATURE": 4.0, "KD.LOSS.CE_WEIGHT": 0.1, "KD.LOSS.KD_WEIGHT": 0.9}
    assert run.protocol["SOLVER.BATCH_SIZE"] == 64 and run.evaluates == "test"
    assert (
        not {"SOLVER.SEED", "SOLVER.TRAINER", "DISTILLER.TYPE", "KD.TEMPERATURE", "teacher"}
        & run.protocol.keys()
    )


def test_dot_is_read_as_part_of_the_recipe(make_run):
    dot, plain = (make_run("KD", 0, [60.0], ["SOLVER.TRAINER", name]) for name in ("dot", "crd"))
    (one,), _ = read_runs([dot])
    (other,), _ = read_runs([plain])
    told = {"SOLVER.OPTIMIZER": "dot", "SOLVER.DOT.DELTA": 0.075}
    assert one.recipe == {**other.recipe, **told} and one.protocol == other.protocol


def test_schedule_of_its_own_length_is_the_default_schedule(make_run):
    default = make_run("KD", 0, [60.0], ["SOLVER.SCHEDULE_EPOCHS", "0"])
    spelled = make_run("KD", 0, [60.0], ["SOLVER.SCHEDULE_EPOCHS", "1"])
    other = make_run("KD", 0, [60.0])
    protocols = [read_runs([path])[0][0].protocol for path in (default, spelled, other)]
    assert protocols[0] == protocols[1] != protocols[2]


def test_pre_training_is_counted_but_not_scored(make_run):
    (run,), _ = read_runs([make_run("KD", 0, [None, None, 50.0, 60.0])])
    assert (run.epochs_done, run.curve) == (4, ((3, 50.0), (4, 60.0)))


def test_unfinished_run_is_kept_as_such(make_run):
    begun = make_run("KD", 0, [50.0, 61.0], finished=False)
    (run,), rejected = read_runs([begun])
    assert (
        run.result is None and rejected == [] and run.progress == "2 epochs done, SOLVER.EPOCHS 2"
    )
    (begun / "metrics.csv").unlink()
    (run,), rejected = read_runs([begun])
    assert run.curve == () and rejected == []


def test_identity_json_is_not_needed_beside_a_result(make_run):
    path = make_run("KD", 0, [60.0])
    (path / "identity.json").unlink()
    (run,), _ = read_runs([path])
    assert run.method == "KD"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("result.json", '{"method": "KD', "result.json is no valid json"),
        ("result.json", "[]", "result.json holds list"),
        ("identity.json", "", "identity.json is no valid json"),
        ("identity.json", b"\xff\xfe", "identity.json is no valid json"),
        ("metrics.csv", "", "metrics.csv is torn or foreign"),
        ("metrics.csv", "epoch,test_top1\n1,60\n", "metrics.csv is torn or foreign"),
        (
            "metrics.csv",
            "phase,epoch,test_top1,train_seconds,test_seconds\ntrain,1,6",
            "metrics.csv is torn or foreign",
        ),
        (
            "metrics.csv",
            "phase,epoch,test_top1,train_seconds,test_seconds\ntrain,2,60.0,1,1\n",
            "skips to epoch 2",
        ),
        (
            "metrics.csv",
            "phase,epoch,test_top1,train_seconds,test_seconds\n",
            "no metrics.csv, or an empty one",
        ),
    ],
)
def test_torn_files_are_told(make_run, name, text, reason):
    path = make_run("KD", 0, [50.0, 60.0])
    (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert reason in only_reason(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"last": {"top1": float("nan"), "top5": 90.0}}, "last.top1 in result.json is nan"),
        ({"last": {"top1": 101.0, "top5": 90.0}}, "last.top1 in result.json is 101.0"),
        (
            {"last": {"top1": 59.0, "top5": 90.0, "loss": 1.0, "ece": 5.0}},
            "last top-1 is 60.0 in metrics.csv but 59.0 in result.json",
        ),
        ({"best": None}, "best.top1 in result.json is None"),
        ({"wall_seconds": "long"}, "wall_seconds in result.json is 'long'"),
        ({"peak_memory_mib": -1}, "peak_memory_mib in result.json is -1"),
        (
            {"wall_seconds": 1900.0},
            "the 2 epochs in metrics.csv took 1800.0 s, result.json says 1900.0 s",
        ),
        ({"identity": None}, "no identity"),
        ({"environment": None}, "no environment"),
    ],
)
def test_results_that_cannot_be_are_told(make_run, changes, reason):
    path = make_run("KD", 0, [50.0, 60.0])
    edit(path / "result.json", **changes)
    assert reason in only_reason(path)


def test_identity_that_another_run_left_is_told(make_run):
    path = make_run("KD", 0, [60.0])
    edit(path / "identity.json", **{"SOLVER.LR": 0.1, "data": "other"})
    assert only_reason(path) == "identity.json and result.json disagree on SOLVER.LR, data"


@pytest.mark.parametrize("key", ["DISTILLER.TYPE", "SOLVER.SEED", "DATASET.VAL_FRACTION", "data"])
def test_identity_without_what_a_table_needs_is_told(make_run, key):
    path = make_run("KD", 0, [60.0], finished=False)
    edit(path / "identity.json", **{key: None})
    assert only_reason(path) == f"identity lacks or has no valid {key}"


def test_metrics_of_something_else_are_told(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2\n")
    assert "neither identity.json nor result.json" in only_reason(tmp_path)


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="no_such does not exist"):
        read_runs([tmp_path / "no_such"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file, not a folder"):
        read_runs([tmp_path / "file"])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "log.txt").write_text("x")
    with pytest.raises(UserError, match="foreign holds no run"):
        read_runs([tmp_path / "foreign"])


def test_a_folder_given_twice_is_read_once(make_run, monkeypatch):
    path = make_run("KD", 0, [60.0])
    monkeypatch.chdir(path.parent)
    runs, _ = read_runs([path, path.name, path.parents[1]])
    assert len(runs) == 1


def test_a_thousand_runs_are_tabled_in_five_seconds(make_run, tmp_path):
    """10 methods' worth of settings, 10 learning rates, 10 seeds, 240 epochs each.

    About a second on an idle machine.
    """
    top1 = [round(40 + 0.1 * epoch, 2) for epoch in range(240)]
    model = make_run("KD", 0, top1, name="model")
    result, metrics = (
        json.loads((model / "result.json").read_text()),
        (model / "metrics.csv").read_text(),
    )
    shutil.rmtree(tmp_path / "fake")
    for number in range(1000):
        rate, student, seed = number // 100, number // 10 % 10, number % 10
        identity = {
            **result["identity"],
            "SOLVER.LR": 0.01 * (rate + 1),
            "DISTILLER.STUDENT": f"student{student}",
            "SOLVER.SEED": seed,
        }
        folder = tmp_path / "many" / f"{rate}-{student}" / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "identity.json").write_text(json.dumps(identity))
        (folder / "result.json").write_text(json.dumps({**result, "identity": identity}))
        (folder / "metrics.csv").write_text(metrics)
    began = time.process_time()  # of this process alone, so that a busy machine does not fail it
    report = make_report(TableOptions(folders=(tmp_path / "many",)))
    text = FORMATS["terminal"].build(report)
    seconds = time.process_time() - began
    assert len(report.comparison.counted) == 1000 and len(report.comparison.columns) == 100
    assert "63.90 ± 0.00 (10)" in text
    assert seconds < 5


@pytest.mark.parametrize("on", [True, False])
def test_garbage_is_collected_after_reading_as_before_it(make_run, on):
    path = make_run("KD", 0, [60.0])
    (path / "result.json").write_text("[]")  # refused, so that reading ends by an error
    was = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        read_runs([path])
        assert gc.isenabled() == on
    finally:
        (gc.enable if was else gc.disable)()


@pytest.mark.parametrize("processes", [2, 64])
def test_several_processes_read_what_one_does(processes, make_run, tmp_path, monkeypatch):
    for seed in range(7):
        path = make_run("KD", seed, [60.0 + seed])
    (path / "result.json").write_text("[]")
    whole = read_runs([tmp_path])
    asked = []

    class Pool(ProcessPoolExecutor):
        def __init__(self, workers, context):
            asked.append(workers)
            super().__init__(workers, context)

        def map(self, function, parts):
            asked.append(len(parts))
            return super().map(function, parts)

    monkeypatch.setattr(read, "PART", 2)
    monkeypatch.setattr(read, "ProcessPoolExecutor", Pool)
    assert read_runs([tmp_path], processes=processes) == whole
    assert asked == [2, 4]
    assert len(whole[0]) == 6 and [bad.path for bad in whole[1]] == [path]


def test_a_run_in_a_first_phase_that_scores_nothing_is_unfinished_not_torn(make_run):
    path = make_run("SOTEACHER", 0, [None, None], ["SOLVER.EPOCHS", "5"], finished=False)
    (run,), rejected = read_runs([path])
    assert rejected == [] and run.epochs_done == 2 and run.curve == ()


def test_a_finished_run_whose_scores_are_gone_is_refused(make_run):
    path = make_run("KD", 0, [50.0, 60.0])
    file = path / "metrics.csv"
    lines = [line.split(",") for line in file.read_text().splitlines()]
    kept = [n for n, name in enumerate(lines[0]) if not name.startswith("test_")]
    file.write_text("".join(",".join(line[n] for n in kept) + "\n" for line in lines))
    assert only_reason(path) == "last top-1 is None in metrics.csv but 60.0 in result.json"

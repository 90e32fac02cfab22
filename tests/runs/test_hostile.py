"""Run folders that a fault or a stranger made: listed as invalid with the field's name, never a
traceback, and nothing else is lost.
"""

import json
import os
import shutil
import time

import pytest
from support.runs import write_run
from support.tables import table

from sdkd_plugin.__main__ import main
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.read import read_runs

DEEP = "[" * 300 + "]" * 300
DEEPER = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with one finished run."""
    prefix = tmp_path_factory.mktemp("good")
    write_run(prefix, "KD", 0, [60.0, 61.0], name="good")
    return prefix


@pytest.fixture
def pair(good, tmp_path):
    """A copy of it with a second run to spoil; its folder."""
    shutil.copytree(good, tmp_path / "runs")
    bad = tmp_path / "runs" / "bad"
    shutil.copytree(tmp_path / "runs" / "fake" / "good" / "seed0", bad)
    return bad


def reason(bad) -> str:
    """Why `bad` does not count; the other run does."""
    runs, rejected = read_runs([bad.parent])
    assert [run.path.name for run in runs] == ["seed0"]
    (only,) = rejected
    assert only.path == bad and only.reason.isprintable() and len(only.reason) < 400
    return only.reason


def spoil(bad, key: str, text: str) -> None:
    """Puts the json `text` in place of the value at a path such as last/top1 in both files that
    have it.
    """
    for file in ("result.json", "identity.json"):
        tree = json.loads((bad / file).read_text())
        keys = key.split("/")
        if file == "identity.json" and (keys[0] != "identity" or len(keys) == 1):
            continue
        *parents, leaf = keys if file == "result.json" else keys[1:]
        node = tree
        for parent in parents:
            node = node[parent]
        node[leaf] = "@@@"
        (bad / file).write_text(json.dumps(tree).replace('"@@@"', text))


KINDS = {
    "null": "null",
    "true": "true",
    "list": "[1]",
    "object": '{"a": 1}',
    "text": '"x"',
    "NaN": "NaN",
    "infinity": "-Infinity",
    "400 digits": "9" * 400,
    "5000 digits": "9" * 5000,
    "1e999": "1e999",
    "deep": DEEP,
    "deeper": DEEPER,
    "NUL": '"a\\u0000b"',
    "surrogate": '"\\ud800"',
    "negative": "-1",
    "long": '"' + "x" * 10_000 + '"',
}
NUMBERS = ("last/top1", "best/loss", "teacher_score/top1", "wall_seconds", "peak_memory_mib")
NUMBERS += ("images_per_second", "deployed_parameters", "extra_parameters", "train_images")
COUNTS = ("seed", "epochs", "schedule_epochs", "best_epoch", "metrics/top1/decimals")
NAMES = ("method", "student", "dataset", "evaluates", "metrics/top1/label", "metrics/top1/better")
SETTINGS = ("identity/DISTILLER.TYPE", "identity/DISTILLER.STUDENT", "identity/DISTILLER.TEACHER")
OBJECTS = ("metrics", "last", "best", "config", "identity", "environment", "metrics/ece")
FIT = {  # kinds that a field may well be of
    "teacher_score/top1": (),
    "best/loss": ("negative",),
    "identity/DISTILLER.TEACHER": ("text", "null"),
    "environment/device": ("text", "null", "long", "surrogate", "NUL"),
    "environment/command": ("null",),
    "environment/versions": ("null",),
    "environment/threads": ("null",),
    "environment/plugins": ("null",),
    "identity/teacher": ("text", "null"),
    "identity/data": ("text",),
    "identity/KD.TEMPERATURE": ("null", "true", "list", "text", "negative", "long"),
}


def wrong_kinds():
    fields = {**dict.fromkeys(NUMBERS, ()), **dict.fromkeys(COUNTS, ())}
    fields |= dict.fromkeys(NAMES, ("text",)) | dict.fromkeys(SETTINGS, ("text",))
    fields |= dict.fromkeys(OBJECTS, ("object",)) | FIT
    fields["evaluates"] = fields["metrics/top1/better"] = ()
    for field, fit in fields.items():
        for kind, text in KINDS.items():
            if kind not in fit:
                yield pytest.param(field, text, id=f"{field}-{kind}")


@pytest.mark.parametrize("field, text", list(wrong_kinds()))
def test_every_field_is_checked_for_every_wrong_kind(pair, field, text):
    spoil(pair, field, text)
    said = reason(pair)
    top, *_, leaf = field.split("/") if "/" in field else (field, field)
    assert leaf in said or top in said or "is no valid json" in said


@pytest.mark.parametrize("style", ["terminal", "md", "latex", "csv", "html"])
def test_an_invalid_run_is_listed_in_every_format(pair, style):
    spoil(pair, "identity/KD.TEMPERATURE", '"\\ud800"')
    assert "KD.TEMPERATURE" in table(pair.parent, style).replace("\\_", "_")
    shutil.rmtree(pair.parent / "fake")
    with pytest.raises(UserError, match="no run can be used; .*KD.TEMPERATURE in the identity"):
        table(pair.parent, style)


@pytest.mark.parametrize("file", ["identity.json", "result.json"])
@pytest.mark.parametrize("text", ["{}", "null", "[1]", "3", '"x"', '{"schema": {}}', DEEP, DEEPER])
def test_a_whole_file_of_another_kind(pair, file, text):
    (pair / file).write_text(text)
    assert file in reason(pair) or "identity" in reason(pair)


@pytest.mark.parametrize(
    "old, new",
    [
        ("61.0", "nan"),
        ("61.0", "inf"),
        ("675.0", "1e300"),
        ("675.0", "x"),
        ("train,2", "train," + "9" * 400),
        ("train,2", "train," + "9" * 5000),
        ("train,2", "train,2,3"),
        ("train,2", "train"),
        ("train,2", '"train,2'),
        ("train,2", "train\0,2"),
        ("phase", "stage,phase"),
        ("test_top1", "x"),
    ],
)
def test_metrics_of_every_wrong_kind(pair, old, new):
    text = (pair / "metrics.csv").read_text()
    (pair / "metrics.csv").write_text(text.replace(old, new))
    assert "metrics.csv" in reason(pair)


@pytest.mark.parametrize("value", ["nan", "x", "1e300"])
def test_a_score_that_only_a_curve_shows_is_checked_where_one_is_shown(pair, value):
    text = (pair / "metrics.csv").read_text()
    assert text.count("60.0,") == 1
    (pair / "metrics.csv").write_text(text.replace("60.0,", f"{value},"))
    runs, rejected = read_runs([pair.parent])
    assert len(runs) == 2 and rejected == []
    runs, (bad,) = read_runs([pair.parent], curves=True)
    assert len(runs) == 1 and "metrics.csv" in bad.reason
    page = pair.parent / "page.html"
    assert main(["table", str(pair.parent), "--format", "html", "--output", str(page)]) == 0
    assert "invalid" in page.read_text()


@pytest.mark.parametrize("name", ["identity.json", "result.json", "metrics.csv"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling", "loop", "device"])
def test_what_is_no_file_does_not_hang(pair, name, kind):
    (pair / name).unlink()
    if kind == "pipe":
        os.mkfifo(pair / name)
    elif kind == "folder":
        (pair / name).mkdir()
    else:
        target = {"dangling": "nowhere", "loop": name, "device": "/dev/zero"}[kind]
        (pair / name).symlink_to(target)
    began = time.monotonic()
    assert main(["table", str(pair.parent)]) == 0
    assert time.monotonic() - began < 10
    runs, rejected = read_runs([pair.parent])
    # without a readable identity.json a finished run is still whole
    lost = kind == "dangling" and name != "metrics.csv"
    assert lost or (len(runs), len(rejected)) == (1, 1)
    assert len(runs) + len(rejected) == 2


def test_a_file_too_large_for_any_run_is_not_read(pair):
    with open(pair / "metrics.csv", "r+b") as file:
        file.truncate(2**40)  # holds nothing: sparse
    assert "larger than 64 MiB" in reason(pair)


def test_linked_run_folders_are_found(good, tmp_path, monkeypatch):
    run = good / "fake" / "good" / "seed0"
    for depth, target in enumerate((run, run.parent, run.parents[1])):
        here = tmp_path / f"linked{depth}"
        here.mkdir()
        (here / "link").symlink_to(target)
        runs, rejected = read_runs([here])
        assert len(runs) == 1 and rejected == []
        assert runs[0].path.is_relative_to(here / "link")
    everything = tmp_path / "all"
    everything.symlink_to(good)
    runs, _ = read_runs([everything])
    assert len(runs) == 1


def test_a_run_that_is_linked_to_is_read_once_under_its_own_name(pair):
    (pair.parent / "a_link").symlink_to(pair.parent / "fake")
    (pair.parent / "fake" / "up").symlink_to(pair.parent)
    (pair.parent / "fake" / "self").symlink_to("self")
    shutil.rmtree(pair)
    began = time.monotonic()
    (run,), rejected = read_runs([pair.parent])
    assert run.path.parts[-4:] == ("runs", "fake", "good", "seed0") and rejected == []
    assert time.monotonic() - began < 5


def test_a_link_is_searched_as_deep_as_runs_lie_and_no_deeper(good, tmp_path):
    for name in ("here", "deep/1/2"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copytree(good, tmp_path / "deep" / "1" / "2" / "3")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "deep")
    with pytest.raises(UserError, match="holds no run"):
        read_runs([tmp_path / "here"])
    assert len(read_runs([tmp_path])[0]) == 1


def test_a_deleted_working_directory_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["table", "output"]) == 2
    assert capsys.readouterr().err == (
        "error: the working directory does not exist any more; cd into one that does, then repeat "
        "the command\n"
    )


@pytest.mark.parametrize("words", ["EXPERIMENT.NAME ../x", "EXPERIMENT.TAG /x", "LOG.PREFIX a\0b"])
def test_names_that_lead_out_are_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("{}")
    assert main(["train", "--cfg", "c.yaml", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words.split()[0]} ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]

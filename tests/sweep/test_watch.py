import csv
import sys

import pytest
from filelock import FileLock

from sdkd_plugin.__main__ import main
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.metrics import FILE
from sdkd_plugin.sweep import watch
from sdkd_plugin.sweep.watch import Row, look, spelled


def change(path, **values):
    """Writes values into the last row of a run's metrics."""
    with open(path / FILE, newline="") as file:
        rows = list(csv.DictReader(file))
    rows[-1].update(values)
    with open(path / FILE, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[-1].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def begun(make_run):
    """A run with three of ten epochs."""
    path = make_run("KD", 0, [50.0, 61.0, 60.5], ["SOLVER.EPOCHS", "10"], finished=False)
    change(path, train_seconds="8.0", test_seconds="2.0", images_per_second="625.0")
    return path


def test_a_run_that_trains_says_how_far_how_fast_and_how_long(begun, tmp_path):
    with FileLock(begun / ".lock"):
        finished, (row,) = look(tmp_path)
    # seven epochs of 8 + 2 seconds are left
    name = str(begun.relative_to(tmp_path))
    assert row == Row(name, "training", "3 of 10", 60.5, 625.0, 70.0)
    assert finished == 0 and row.cells[3:] == ("60.50", "625", "1 min")


def test_in_a_group_an_epoch_lasts_for_all_its_runs(begun, tmp_path):
    change(begun, group_size="6")
    with FileLock(begun / ".lock"):
        _, (row,) = look(tmp_path)
    assert row.seconds_left == 420.0


def test_a_run_that_nobody_writes_to_is_stopped_and_has_no_time_left(begun, tmp_path):
    _, (row,) = look(tmp_path)
    assert (row.state, row.epoch, row.seconds_left) == ("stopped", "3 of 10", None)
    assert row.cells[-1] == ""


def test_a_first_phase_says_its_name_since_its_length_is_nowhere(make_run, tmp_path):
    path = make_run("FSP", 0, [None, None], ["SOLVER.EPOCHS", "5"], finished=False)
    with FileLock(path / ".lock"):
        _, (row,) = look(tmp_path)
    assert (row.epoch, row.top1, row.seconds_left) == ("2 of phase pre", None, None)


def test_a_run_in_its_first_epoch(begun, tmp_path):
    (begun / FILE).unlink()
    _, (row,) = look(tmp_path)
    assert row.cells[1:] == ("stopped", "0 of 10", "", "", "")


def test_finished_runs_are_counted_and_broken_ones_told(make_run, tmp_path, capsys):
    make_run("KD", 0, [60.0])
    broken = make_run("KD", 1, [60.0])
    (broken / "result.json").write_text("[]")
    finished, (row,) = look(tmp_path)
    assert finished == 1 and "result.json holds list, not an object" in row.state

    assert main(["watch", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "1 finished, 0 training, 0 stopped, 1 cannot be read" in told


def test_those_that_train_come_first(make_run, tmp_path):
    for seed in range(3):
        path = make_run("KD", seed, [50.0], finished=False)
    with FileLock(path / ".lock"):
        _, rows = look(tmp_path)
    assert [row.state for row in rows] == ["training", "stopped", "stopped"]
    assert rows[0].name.endswith("seed2")


def test_it_looks_again_until_none_trains(begun, tmp_path, monkeypatch):
    lock = FileLock(begun / ".lock")
    lock.acquire()
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            lock.release()

    monkeypatch.setattr(watch.time, "sleep", nap)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    watch.watch(tmp_path, every=3.0)
    assert naps == [3.0, 3.0]


def test_escapes_in_a_name_reach_no_terminal(make_run, tmp_path, capsys):
    make_run("KD", 0, [50.0], finished=False, name="[red]x")
    assert main(["watch", str(tmp_path)]) == 0
    assert "[red]x" in capsys.readouterr().out


@pytest.mark.parametrize("every", ["0", "-1", "nan"])
def test_a_time_between_looks_that_is_none(begun, tmp_path, capsys, every):
    assert main(["watch", str(tmp_path), f"--every={every}"]) == 2
    assert "allowed: above 0" in capsys.readouterr().err


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        look(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "words"), [(59.4, "59 s"), (60, "1 min"), (3599, "60 min"), (5400, "1.5 h")]
)
def test_times_are_spelled(seconds, words):
    assert spelled(seconds) == words

"""What a sweep says of itself while it runs."""

from pathlib import Path

from sdkd_plugin.sweep.jobs import Job
from sdkd_plugin.sweep.progress import KindCost, Remaining, run_all


def test_the_time_left_is_the_estimate_corrected_by_what_has_ended(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("sdkd_plugin.sweep.progress.time.monotonic", lambda: now[0])
    four = [Job(f"kd seed {seed}", Path("x"), (), seed) for seed in range(4)]
    remaining = Remaining({"kd": KindCost(2.0, 12)}, four, workers=2, count=lambda job: 0)
    assert str(remaining) == "0 % trained, about 4.0 h left"
    now[0] = 3600.0
    assert str(remaining) == "0 % trained, about 3.0 h left"
    now[0] = 4 * 3600.0  # two runs took four hours, not two
    remaining.ended(four[0])
    remaining.ended(four[1])
    assert str(remaining) == "50 % trained, about 4.0 h left"
    now[0] += 3.5 * 3600
    assert str(remaining) == "50 % trained, about 30 min left"
    assert str(Remaining({}, four, 2)) == "time left unknown"


def test_epochs_of_runs_that_have_not_ended_count_and_those_of_an_earlier_sweep_do_not(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("sdkd_plugin.sweep.progress.time.monotonic", lambda: now[0])
    first, second = (Job(f"kd seed {seed}", Path("x"), (), seed) for seed in range(2))
    epochs = {first: 6, second: 0}  # half of the first was trained before
    cost = {"kd": KindCost(2.0, 12)}
    remaining = Remaining(cost, [first, second], workers=1, count=epochs.__getitem__)
    assert str(remaining) == "0 % trained, about 3.0 h left"
    now[0] = 2 * 3600.0  # three epochs of each: an estimated hour, which took two
    epochs.update({first: 9, second: 3})
    remaining.look()
    assert str(remaining) == "33 % trained, about 4.0 h left"
    remaining.ended(first)
    assert str(remaining) == "50 % trained, about 2.0 h left"


def test_where_no_terminal_shows_a_bar_a_line_says_how_far_it_is(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("sdkd_plugin.sweep.progress.time.monotonic", lambda: now[0])
    job = Job("kd seed 0", Path("x"), (), 0)
    epochs = {job: 0}
    remaining = Remaining({"kd": KindCost(1.0, 10)}, [job], 1, epochs.__getitem__)

    def outcomes(todo, tick):
        for minute in range(0, 21, 5):
            now[0], epochs[job] = 60.0 * minute, minute // 4
            tick()
        yield job, None

    assert run_all([[job]], outcomes, remaining) == []
    said = capsys.readouterr()
    assert [
        line for line in said.out.splitlines() if line.startswith("0 of 1 runs have ended")
    ] == [
        "0 of 1 runs have ended, 20 % trained, about 40 min left",
        "0 of 1 runs have ended, 50 % trained, about 20 min left",
    ]
    # the bar, which each line repaints below itself, says the same
    assert "50 % trained, about 20 min left]" in said.err


def test_the_time_left_is_said_with_each_run_that_ends(capsys):
    both = [Job(f"kd seed {seed}", Path("x"), (), seed) for seed in range(2)]

    def outcomes(todo, tick):
        tick()
        for job in todo:
            yield job, "broken" if job.seed else None

    costs = {"kd": KindCost(1.0, 12)}
    failures = run_all([[], both], outcomes, Remaining(costs, both, 1))
    assert failures == [(both[1], "broken")]
    said = capsys.readouterr().out
    assert "done: kd seed 0 (1 of 2, 50 % trained, about " in said and " left)" in said
    assert "failed: kd seed 1: broken (2 of 2, " in said

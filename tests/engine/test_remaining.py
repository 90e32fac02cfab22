"""How long a run still takes, by hand."""

import pytest
from support.tiny import tiny_yaml

from sdkd_plugin.__main__ import main
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.engine.remaining import in_words, seconds_left

PRE, MAIN = Phase("pre", 2), Phase("train", 4)
SCHEDULE = [(PRE, 1), (PRE, 2), *((MAIN, epoch) for epoch in range(1, 5))]


def row(phase: str, train: float, test: float | None = None) -> dict:
    scored = {} if test is None else {"test_seconds": test}
    return {"phase": phase, "train_seconds": train, **scored}


def test_each_phase_goes_on_at_its_own_pace_and_one_to_come_as_the_last():
    assert seconds_left([], SCHEDULE) is None
    # one more of 10 s, and four of a phase nobody knows
    assert seconds_left([row("pre", 10)], SCHEDULE) == 50
    begun = [row("pre", 10), row("pre", 30), row("train", 5, 1)]
    assert seconds_left(begun, SCHEDULE) == 3 * 6
    assert seconds_left([*begun, *[row("train", 5, 1)] * 3], SCHEDULE) == 0


def test_the_latest_epochs_tell_the_pace():
    schedule = [(Phase("train", 20), epoch) for epoch in range(1, 21)]
    history = [row("train", 1000)] * 5 + [row("train", 2)] * 5
    assert seconds_left(history, schedule) == 20


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (11520, "about 3.2 h left"),
        (3600, "about 1.0 h left"),
        (3599, "about 60 min left"),
        (90, "about 2 min left"),
        (89, "about 89 s left"),
    ],
)
def test_a_duration_is_said_as_people_do(seconds, said):
    assert in_words(seconds) == said


def test_each_epochs_line_says_it_but_the_last(tmp_path, capsys):
    assert main(["train", "--cfg", tiny_yaml(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train ")]
    assert [line.endswith(" left") for line in lines] == [True, True, False]

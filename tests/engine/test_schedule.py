"""What a short run makes of a schedule for 240 epochs, and that it says so."""

import pytest
from support.tiny import tiny_yaml, train_command

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.engine.schedule import learning_rate, schedule_notes

# decays before each epoch, by hand: 150, 180 and 210 of 240 are 5/8, 6/8 and 7/8 of the epochs
DECAYS = {
    1: "3",
    2: "03",
    3: "013",
    4: "0013",
    5: "00023",
    6: "000123",
    7: "0000123",
    8: "00000123",
    9: "000001233",
    10: "0000001233",
    11: "00000011233",
    12: "000000011233",
}
ODD = {1, 2, 3, 4, 5}  # where a decay has no epoch of its own


def config(*words: object, epochs: int, schedule: int = 240):
    solver = ["SOLVER.EPOCHS", epochs, "SOLVER.SCHEDULE_EPOCHS", schedule, *words]
    return scaled_config(load_config(None, map(str, solver)))


def notes(*words: object, epochs: int, schedule: int = 240) -> list[str]:
    cfg = config(*words, epochs=epochs, schedule=schedule)
    return list(schedule_notes(cfg, [Phase("train", epochs)]))


@pytest.mark.parametrize("epochs", DECAYS)
def test_the_rates_of_a_short_run_and_whether_it_says_them(epochs):
    cfg = config(epochs=epochs)
    rates = [learning_rate(cfg, epoch) for epoch in range(1, epochs + 1)]
    assert rates == pytest.approx([0.05 * 10 ** -int(decays) for decays in DECAYS[epochs]])
    assert bool(notes(epochs=epochs)) == (epochs in ODD)


def test_the_usual_lengths_say_nothing():
    assert not any(notes(epochs=epochs) for epochs in (6, 8, 12, 24, 30, 60, 120, 240))


SAID = [
    (
        {"epochs": 1},
        "SOLVER.LR_DECAY_STAGES is [0.625, 0.75, 0.875] for 1 epochs, scaled from 240; rates by "
        "epoch: 1 at 5e-05; all of it trains at SOLVER.LR 0.05 times 0.001",
    ),
    (
        {"epochs": 2},
        "SOLVER.LR_DECAY_STAGES is [1.25, 1.5, 1.75] for 2 epochs, scaled from 240; rates by "
        "epoch: 1 at 0.05, 2 at 5e-05; several decays come at once",
    ),
    (
        {"epochs": 5},
        "SOLVER.LR_DECAY_STAGES is [3.125, 3.75, 4.375] for 5 epochs, scaled from 240; rates by "
        "epoch: 1-3 at 0.05, 4 at 0.0005, 5 at 5e-05; several decays come at once",
    ),
    (
        {"epochs": 180, "schedule": 0},
        "SOLVER.LR_DECAY_STAGES is [150, 180, 210] for 180 epochs; rates by epoch: 1-150 at 0.05, "
        "151-180 at 0.005; 2 of 3 decays never come (SOLVER.SCHEDULE_EPOCHS, such as 240, scales "
        "them)",
    ),
    (
        {"epochs": 4, "words": ("SOLVER.LR_DECAY_STAGES", "[30, 150]")},
        "SOLVER.LR_DECAY_STAGES is [0.5, 2.5] for 4 epochs, scaled from 240; rates by epoch: "
        "1-2 at 0.005, 3-4 at 0.0005; no epoch has SOLVER.LR 0.05",
    ),
    (
        {
            "epochs": 10,
            "schedule": 0,
            "words": ("DISTILLER.TYPE", "DKD", *("SOLVER.LR_DECAY_STAGES", "[8]")),
        },
        "DKD.WARMUP is 20 epochs, of 10 in all: its ramp does not end",
    ),
]


@pytest.mark.parametrize(("given", "wanted"), SAID)
def test_what_is_said(given, wanted):
    given = dict(given)
    assert notes(*given.pop("words", ()), **given) == [wanted]


@pytest.mark.parametrize("words", [("SOLVER.LR_DECAY_STAGES", "[]"), ("SOLVER.LR_DECAY_RATE", 1.0)])
def test_a_constant_rate_is_what_was_asked_for(words):
    assert notes(*words, epochs=1) == []


def test_a_phase_with_a_rate_of_its_own_has_no_decays():
    cfg = config(epochs=8)
    phases = [Phase("init", 1, lr=0.1), Phase("teacher", 1), Phase("train", 8)]
    (line,) = schedule_notes(cfg, phases)
    assert line.startswith("phase 'teacher': SOLVER.LR_DECAY_STAGES is [5, 6, 7] for 1 epochs")
    assert line.endswith("rates by epoch: 1 at 0.05; 3 of 3 decays never come")


def test_a_ramp_that_ends_with_the_run_says_nothing():
    words = ("DISTILLER.TYPE", "DKD", "SOLVER.LR_DECAY_STAGES", "[8]", "DKD.WARMUP")
    assert notes(*words, 10, epochs=10, schedule=0) == []
    assert len(notes(*words, 11, epochs=10, schedule=0)) == 1
    words = ("DISTILLER.TYPE", "DKD", "DKD.WARMUP", 20)
    assert notes(*words, epochs=12) == []  # scaled to one epoch


def test_a_run_and_its_plan_say_it_in_one_line(tmp_path, capsys):
    """And the epoch has that rate."""
    yaml = tiny_yaml(tmp_path, {"SOLVER.EPOCHS": 1, "SOLVER.SCHEDULE_EPOCHS": 3})
    stages = {"SOLVER__LR_DECAY_STAGES": "[1, 2]"}
    said = (
        "warning: SOLVER.LR_DECAY_STAGES is [0.333333, 0.666667] for 1 epochs, scaled from 3; "
        "rates by epoch: 1 at 0.0005; all of it trains at SOLVER.LR 0.05 times 0.01"
    )
    assert train_command(yaml, "--dry-run", **stages) == 0
    assert capsys.readouterr().out.splitlines().count(said) == 1
    assert train_command(yaml, **stages) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(said) == 1
    assert lines[lines.index(said) + 1].startswith("train 1/1  lr 0.0005  ")


def test_a_run_with_a_decay_of_its_own_says_nothing(tmp_path, capsys):
    yaml = tiny_yaml(tmp_path)
    assert train_command(yaml) == 0
    assert "warning" not in capsys.readouterr().out

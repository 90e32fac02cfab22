"""Epoch-valued keys scale with the length of a run, in exact arithmetic."""

import math
from fractions import Fraction

import pytest

from sdkd_plugin.config import (
    active_config,
    epoch_keys,
    load_config,
    scale_epochs,
    scaled_config,
)
from sdkd_plugin.registry import METHODS
from sdkd_plugin.settings import flatten

ALL = [entry.name for entry in METHODS]


@pytest.mark.parametrize("method", ALL)
def test_every_method_has_its_epoch_keys_in_the_tree_and_only_its_own_node_counts(method):
    views = str(METHODS[method].build.views)
    cfg = load_config(None, ["DISTILLER.TYPE", method, "DATASET.VIEWS", views])
    assert set(epoch_keys(cfg)) <= dict(flatten(cfg)).keys()
    own = {method} if method in cfg else set()
    assert set(active_config(cfg)) == {"EXPERIMENT", "DATASET", "DISTILLER", "SOLVER", "LOG"} | own


def test_epoch_keys_scale_to_a_short_run_and_the_config_itself_stays():
    cfg = load_config(
        None, ["DISTILLER.TYPE", "DKD", "SOLVER.EPOCHS", "30", "SOLVER.SCHEDULE_EPOCHS", "240"]
    )
    before = cfg.dump()
    scaled = scaled_config(cfg)
    assert scaled.SOLVER.LR_DECAY_STAGES == [18.75, 22.5, 26.25]
    assert scaled.DKD.WARMUP == 2.5
    assert scaled.SOLVER.EPOCHS == 30
    assert cfg.dump() == before
    old, new = dict(flatten(cfg)), dict(flatten(scaled))
    assert {key for key in old if old[key] != new[key]} == {
        "SOLVER.LR_DECAY_STAGES",
        "DKD.WARMUP",
    }, "others are not this run's"


SHIPPED = [150, 180, 210, 20, 10, 30, 10, 20, 180, 210]  # decay stages, warm-ups, NORM's ramp


def test_every_length_of_run_decays_where_exact_arithmetic_says():
    """In floats eight of these lengths decay an epoch early, such as 84, 88, 168 and 176."""
    for epochs in range(1, 481):
        cfg = load_config(
            None,
            ["DISTILLER.TYPE", "NORM", "SOLVER.EPOCHS", str(epochs)]
            + ["SOLVER.SCHEDULE_EPOCHS", "240", "SOLVER.LR_DECAY_STAGES", str(SHIPPED[:3])]
            + ["NORM.RAMP_EPOCHS", str(SHIPPED[-4:])],
        )
        scaled = scaled_config(cfg)
        found = [*scaled.SOLVER.LR_DECAY_STAGES, *scaled.NORM.RAMP_EPOCHS]
        exact = [Fraction(stage * epochs, 240) for stage in SHIPPED[:3] + SHIPPED[-4:]]
        for stage, wanted in zip(found, exact, strict=True):
            assert [epoch > stage for epoch in range(1, epochs + 1)] == [
                epoch > wanted for epoch in range(1, epochs + 1)
            ]


@pytest.mark.parametrize("schedule", [1, 7, 200, 240, 300])
def test_every_whole_or_decimal_epoch_scales_exactly(schedule):
    for epochs in range(1, 481):
        for value in (*SHIPPED, 0.1, 62.5):
            scaled = scale_epochs(value, epochs, schedule)
            exact = Fraction(str(value)) * epochs / schedule
            assert scaled == float(exact)
            for epoch in (math.floor(exact), math.ceil(exact)):
                assert (epoch > scaled) == (epoch > exact)


@pytest.mark.parametrize("schedule", ["0", "30"])
def test_without_another_schedule_nothing_scales(schedule):
    cfg = load_config(
        None, ["DISTILLER.TYPE", "DKD", "SOLVER.EPOCHS", "30", "SOLVER.SCHEDULE_EPOCHS", schedule]
    )
    assert scaled_config(cfg).dump() == cfg.dump()

"""Runs trained together leave behind, to the bit, what each leaves when it is trained alone."""

from pathlib import Path

import pytest
import torch
from cases import CASES
from support.tiny import (
    assert_same_run,
    method_overrides,
    metrics,
    result,
    save_teacher,
    tiny_config,
)

from sdkd_plugin.engine import group
from sdkd_plugin.engine.lockstep import train_together
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.shared import OncePerBatch
from sdkd_plugin.models import build_model


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher") / "ckpt.pth")


def configs(folder: Path, teacher: Path, cases=CASES, **overrides) -> list:
    """A run for each case; the same batches for all."""
    made = []
    for case in cases:
        own = method_overrides(case, teacher)
        made.append(tiny_config(folder, {**own, "SOLVER.BATCH_SIZE": 24, **overrides}))
    return made


def files(folder: Path) -> set[str]:
    """Every file of a run but for the TensorBoard files, whose names hold the second."""
    paths = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {str(path) for path in paths if "train.events" not in str(path)}


def test_every_method_leaves_the_bits_of_a_run_alone(teacher, tmp_path):
    outcomes = list(train_together(configs(tmp_path / "together", teacher)))
    assert sorted(outcomes) == [(number, None) for number in range(len(CASES))]

    for cfg, case in zip(configs(tmp_path / "alone", teacher), CASES, strict=True):
        alone = train(cfg).path
        together = tmp_path / "together" / alone.relative_to(tmp_path / "alone")
        assert files(together) == files(alone), case.name
        assert_same_run(together, alone)
        for name in ("identity.json", "first_steps.json"):
            assert (together / name).read_bytes() == (alone / name).read_bytes(), case.name
        assert result(alone)["group_size"] == 1
        assert result(together)["group_size"] > 1

"""Small finished runs that the studies look at, trained once."""

from pathlib import Path

import pytest
from support.tiny import save_teacher, tiny_config

from sdkd_plugin.engine.run import train


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Run folders by method: SDKD that kept each of its two checkpoints, KD and NONE."""
    folder = tmp_path_factory.mktemp("studies")
    teacher = save_teacher(folder / "teacher")
    kept = {"LOG.SAVE_CHECKPOINT_FREQ": 1, "SOLVER.EPOCHS": 2, "DISTILLER.TEACHER_CKPT": teacher}
    return {
        method: train(tiny_config(folder, {**kept, "DISTILLER.TYPE": method})).path
        for method in ("SDKD", "KD", "NONE")
    }

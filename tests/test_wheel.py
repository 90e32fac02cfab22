"""The package as a wheel, in an environment of its own, far from the repository."""

from pathlib import Path

import pytest
from support.installed import call

ROOT = Path(__file__).resolve().parents[1]
TRAIN = [
    *"train --cfg configs/cifar100/vanilla/resnet20.yaml".split(),
    *"DATASET.TYPE digits DATASET.SUBSET 0.2 SOLVER.EPOCHS 1".split(),
]


@pytest.mark.slow
def test_the_documented_commands_work_from_the_wheel(programs, tmp_path):
    sdkd = programs / "sdkd"
    assert "parameters of the student" in call(
        sdkd, *TRAIN[:3], "--dry-run", *TRAIN[3:], cwd=tmp_path
    )
    call(sdkd, *TRAIN, cwd=tmp_path)
    assert "resnet20" in call(sdkd, "table", "output", cwd=tmp_path)
    # the poster's last gain
    assert "3.10" in call(sdkd, "table", "--published", "poster", cwd=tmp_path)


@pytest.mark.slow
def test_the_wheel_carries_every_config(programs, tmp_path):
    code = (
        "from sdkd_plugin.config import configs_folder as f; "
        "print(*(p.relative_to(f()) for p in f().rglob('*.yaml')))"
    )
    there = call(programs / "python", "-c", code, cwd=tmp_path).split()
    assert set(there) == {
        str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml")
    }

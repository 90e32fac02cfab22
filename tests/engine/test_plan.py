"""--dry-run: says what a run would be, and does nothing."""

import re

import pytest
from cases import CASES
from support.tiny import contents, method_overrides, save_teacher, tiny_config, tiny_yaml

from sdkd_plugin.__main__ import main
from sdkd_plugin.engine.plan import show_run_plan
from sdkd_plugin.models import build_model


def parameters(name: str) -> str:
    return f"{sum(p.numel() for p in build_model(name, 10).parameters()):,}"


def test_it_shows_config_scaled_epochs_parameters_and_cost_and_writes_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    overrides = {
        "DISTILLER.TYPE": "DKD",
        "DISTILLER.TEACHER_CKPT": save_teacher(tmp_path / "teacher"),
    }
    overrides |= {
        "SOLVER.EPOCHS": 30,
        "SOLVER.SCHEDULE_EPOCHS": 240,
        "SOLVER.LR_DECAY_STAGES": [150, 180, 210],
    }
    yaml = tiny_yaml(tmp_path, overrides)
    before = contents(tmp_path)
    assert main(["train", "--cfg", yaml, "--dry-run", "SOLVER.SEED", "5"]) == 0
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"teacher", "tiny.yaml"}
    shown = capsys.readouterr().out
    for line in (
        "  SOLVER.SEED: 5\n",
        "  DKD.BETA: 8.0\n",
        "  SOLVER.LR_DECAY_STAGES: [150, 180, 210]\n",
        "written for 240, scaled to 30:\n"
        "  SOLVER.LR_DECAY_STAGES: [18.75, 22.5, 26.25]\n"
        "  DKD.WARMUP: 2.5\n",
        "data: digits, 143 training images, 360 test images\n",
        f"parameters of the student: {parameters('resnet8')}\n",
        f"parameters of the teacher: {parameters('resnet14')}\n",
        "parameters training adds: 0\n",
    ):
        assert line in shown
    assert "KD.TEMPERATURE" not in shown, "another method's settings"
    assert re.search(
        r"  30 epochs 'train', each \d+\.\d s of training, \d+\.\d s of evaluation\n"
        r"  altogether \d+\.\d\d hours",
        shown,
    )


def test_a_missing_teacher_is_a_warning_here_and_a_broken_one_is_not(tmp_path, capsys):
    overrides = {"DISTILLER.TYPE": "KD", "DISTILLER.TEACHER_CKPT": tmp_path / "nix"}
    yaml = tiny_yaml(tmp_path, overrides)
    assert main(["train", "--cfg", yaml, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"warning: teacher checkpoint {tmp_path / 'nix'}" in shown and "altogether" in shown
    (tmp_path / "nix").write_bytes(b"broken")
    assert main(["train", "--cfg", yaml, "--dry-run"]) == 2
    assert "nix cannot be read" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_method_can_be_planned(case, tmp_path, capsys):
    show_run_plan(tiny_config(tmp_path / "runs", method_overrides(case, tmp_path / "nix")))
    assert "altogether" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()

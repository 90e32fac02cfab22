"""Devices, precisions and memory formats."""

import pytest
import torch
from support.tiny import (
    metrics,
    read,
    tiny_config,
)

from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.run import train
from sdkd_plugin.errors import UserError


def test_devices_and_precisions_that_are_not_there_are_refused(tmp_path):
    if not torch.cuda.is_available():
        with pytest.raises(
            UserError, match="SOLVER.DEVICE is 'cuda', but torch sees no CUDA device"
        ):
            make_accelerator(tiny_config(tmp_path, {"SOLVER.DEVICE": "cuda"}))
    with pytest.raises(
        UserError,
        match="SOLVER.PRECISION is 'fp16', which needs CUDA; allowed on the CPU: fp32, bf16",
    ):
        make_accelerator(
            tiny_config(tmp_path, {"SOLVER.DEVICE": "cpu", "SOLVER.PRECISION": "fp16"})
        )


def test_one_process_may_train_in_two_precisions(tmp_path):
    losses = {}
    for precision in ("fp32", "bf16", "fp32"):
        cfg = tiny_config(
            tmp_path / str(len(losses)),
            {"SOLVER.PRECISION": precision, "SOLVER.EPOCHS": 1, "SOLVER.DEVICE": "cpu"},
        )
        folder = train(cfg).path
        assert {value.dtype for value in read(folder / "student_latest")["model"].values()} == {
            torch.float32,
            torch.int64,
        }
        losses.setdefault(precision, []).append(metrics(folder)[0]["train_loss"])
    assert losses["fp32"][0] == losses["fp32"][1] != losses["bf16"][0]
    assert float(losses["bf16"][0]) == pytest.approx(float(losses["fp32"][0]), rel=0.05)


def test_the_memory_format_changes_nothing_but_rounding(tmp_path):
    one_step = {"SOLVER.EPOCHS": 1, "SOLVER.BATCH_SIZE": 143}  # more of them amplify rounding
    folders = [
        train(tiny_config(tmp_path, {**one_step, "SOLVER.CHANNELS_LAST": flag})).path
        for flag in (True, False)
    ]
    one, two = (read(folder / "student_latest")["model"] for folder in folders)
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-5, atol=1e-5)

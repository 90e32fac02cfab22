"""On a device that computes on its own no step waits for it. A CPU cannot show the waiting, but it
does show the calls that would wait: those that turn a tensor into a number or a length.
"""

import traceback
from collections import Counter
from typing import Any

import pytest
import torch
from cases import CASES, Case
from support.tiny import method_overrides, tiny_config
from torch.utils._python_dispatch import TorchDispatchMode

from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.distillers import dkd
from sdkd_plugin.engine import finite
from sdkd_plugin.engine.build import build_distiller, build_teacher
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.trainer import Trainer

WAITS = {
    "_local_scalar_dense",  # item(), float(), bool(), `if tensor:`
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "unique_consecutive",
    "_unique2",
    "repeat_interleave",
}


class Waits(TorchDispatchMode):
    """Counts the calls that would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name == "index" and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITS or masks:
            calls = [c for c in traceback.extract_stack() if "/sdkd_plugin/" in c.filename]
            self.found[f"{name} at {calls[-1].filename}:{calls[-1].lineno}" if calls else name] += 1
        return func(*args, **(kwargs or {}))


MORE = [Case("SDKD", {"SDKD.SYNC": sync}) for sync in ("epoch", "ema")]


@pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: case.name)
def test_a_step_turns_no_tensor_into_a_number(case: Case, teacher, tmp_path, monkeypatch):
    # what is done on the CPU alone
    monkeypatch.setattr(finite, "EVERY_ON_CPU", finite.EVERY)
    monkeypatch.setattr(dkd, "check_labels", lambda *arguments: None)
    cfg = tiny_config(tmp_path, method_overrides(case, teacher))
    dataset = load_dataset(cfg)
    frozen = build_teacher(cfg, dataset.num_classes, teacher)
    trainer = Trainer(cfg, build_distiller(cfg, dataset, frozen), dataset, make_accelerator(cfg))
    for phase in dict.fromkeys(phase for phase, _ in trainer.schedule):
        trainer.reach(phase)
        running = trainer.begin(1)
        batches = trainer.train_batches.epoch(1)
        for _ in range(3):  # whose losses and weights are recorded
            trainer.take(running, next(batches))
        batch = next(batches)
        with Waits() as waits:
            trainer.take(running, batch)
        assert not waits.found, f"{phase.name}: {dict(waits.found)}"


def test_the_count_sees_a_number():
    with Waits() as waits:
        float(torch.ones(()))
        torch.ones(3)[torch.tensor([True, False, True])]
    assert waits.found["_local_scalar_dense"] == 1 and waits.found["index"] == 1

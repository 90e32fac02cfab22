"""What the allocator does with freed blocks, counted in page faults of a process of its own."""

import platform
import subprocess
import sys

import pytest
import torch
from support.tiny import tiny_config

from sdkd_plugin.engine.memory import peak_memory
from sdkd_plugin.engine.run import train

MIB = 2**20
CHURN = """
import resource, sys, torch
from sdkd_plugin.engine.memory import keep_freed_memory
from sdkd_plugin.models import build_model

if sys.argv[1] == "keep":
    assert keep_freed_memory()
model, image = build_model("resnet8", 10), torch.randn(64, 3, 32, 32)
for step in range(20):
    if step == 15:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model(image)[0].sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Page faults of five forward and backward passes after fifteen."""
    done = subprocess.run(
        [sys.executable, "-c", CHURN, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's malloc gives large blocks back at once"
)
def test_freed_memory_is_kept_for_the_next_step():
    default, keep = faults("default"), faults("keep")
    assert default > 1000
    assert keep < default / 10


def test_peak_memory_counts_what_was_held_at_once():
    held = torch.ones(64, MIB)  # 256 MiB
    assert peak_memory(torch.device("cpu")) >= held.nbytes


def test_peak_memory_of_a_large_process_is_not_its_childs():
    held = torch.ones(256, MIB)  # 1 GiB, which ru_maxrss hands down
    code = "import torch, sdkd_plugin.engine.memory as m; print(m.peak_memory(torch.device('cpu')))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(told.stdout) < held.nbytes


def test_a_training_on_the_cpu_asks_for_it(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("sdkd_plugin.engine.trainer.keep_freed_memory", lambda: calls.append(True))
    train(tiny_config(tmp_path, {"SOLVER.EPOCHS": 1, "SOLVER.DEVICE": "cpu"}))
    assert calls == [True]

"""What other systems lack or have: modules that only Unix has, and Apple's GPU. Linux is all that
the tests run on; these stand in for the rest.
"""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.tiny import tiny_config

from sdkd_plugin.engine import device as device_module
from sdkd_plugin.engine import memory
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.errors import UserError
from sdkd_plugin.runs.environment import describe_environment

# Python's modules for Unix alone, refused to this package only: others look after themselves
WITHOUT = """
import builtins, pkgutil, importlib, signal
UNIX = {"resource", "fcntl", "termios", "tty", "pty", "pwd", "grp", "syslog", "posix", "crypt"}
whole_import = builtins.__import__

def refuse(name, globals=None, *rest, **named):
    importer = (globals or {}).get("__name__", "")
    if name.partition(".")[0] in UNIX and importer.partition(".")[0] == "sdkd_plugin":
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return whole_import(name, globals, *rest, **named)

builtins.__import__ = refuse
for name in ("SIGHUP", "SIGKILL", "SIGUSR1"):
    delattr(signal, name)
import sdkd_plugin
for module in pkgutil.walk_packages(sdkd_plugin.__path__, "sdkd_plugin."):
    if module.name != "sdkd_plugin.upstream.launch":
        importlib.import_module(module.name)
        print(module.name)
import torch
from sdkd_plugin.engine.memory import peak_memory
assert peak_memory(torch.device("cpu")) > 2**20
"""


def test_every_module_imports_where_unix_modules_are_absent():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sdkd_plugin.engine.memory" in done.stdout.split() and len(done.stdout.split()) > 80


def test_without_resource_psutil_tells_the_memory(monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(memory, "_STATUS", Path("nowhere"))
    now = memory.peak_memory(torch.device("cpu"))
    assert now > 50 * 2**20  # torch alone takes more
    held = SimpleNamespace(rss=1, peak_wset=7)
    process = SimpleNamespace(memory_info=lambda: held)
    monkeypatch.setattr(memory.psutil, "Process", lambda: process)
    assert memory.peak_memory(torch.device("cpu")) == 7


@pytest.fixture
def with_mps(monkeypatch):
    """A torch that has an Apple GPU, and what accelerate is asked for."""
    asked = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def accelerator(**options):
        asked.append(options)
        return SimpleNamespace(num_processes=1, device=torch.device("mps"))

    monkeypatch.setattr(device_module, "Accelerator", accelerator)
    return asked


@pytest.mark.parametrize("name, on_cpu", [("mps", False), ("auto", True), ("cpu", True)])
def test_mps_is_taken_where_it_is_and_only_when_asked_for(with_mps, tmp_path, name, on_cpu):
    make_accelerator(tiny_config(tmp_path, {"SOLVER.DEVICE": name}))
    assert with_mps == [{"cpu": on_cpu, "mixed_precision": "no"}]


def test_mps_has_one_precision(with_mps, tmp_path):
    with pytest.raises(UserError, match="'bf16', which needs CUDA or the CPU; allowed on mps"):
        make_accelerator(
            tiny_config(tmp_path, {"SOLVER.DEVICE": "mps", "SOLVER.PRECISION": "bf16"})
        )


def test_what_is_there_is_offered_for_what_is_not(with_mps, tmp_path):
    with pytest.raises(UserError, match="no CUDA device here; allowed: auto, cpu, mps"):
        make_accelerator(tiny_config(tmp_path, {"SOLVER.DEVICE": "cuda"}))


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an mps device")
def test_mps_is_refused_by_name_where_it_is_not(tmp_path):
    with pytest.raises(UserError, match="SOLVER.DEVICE is 'mps', but torch sees no MPS device"):
        make_accelerator(tiny_config(tmp_path, {"SOLVER.DEVICE": "mps"}))


def test_a_record_names_the_device():
    assert describe_environment(torch.device("mps"))["device"].startswith("mps ")
    assert describe_environment(torch.device("cpu"))["device"].startswith("cpu ")

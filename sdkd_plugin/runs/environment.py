"""What a run was made with: versions, device, commit. A number without this cannot be defended."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sdkd_plugin.plugins import describe_plugins

PACKAGES = ("sdkd-plugin", "torchvision", "numpy", "accelerate", "yacs")
OPTIONAL = ("timm",)  # whose models may have been trained


def _git(*arguments: str) -> str | None:
    """Output of git in the checkout this package lies in; None where there is no git or no checkout
    of this package.
    """
    root = Path(__file__).resolve().parents[2]
    # installed as a wheel: a checkout around site-packages is not ours
    if not (root / ".git").exists():
        return None

    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def uncommitted_diff() -> str:
    """The tracked changes that the recorded commit does not hold."""
    return _git("diff", "HEAD") or ""


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Command, commit, versions, plugins and hardware, as plain values for a json file."""
    commit = _git("rev-parse", "HEAD")
    # torch's own says its CUDA too
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    packages = (*PACKAGES, *(name for name in OPTIONAL if name in sys.modules))
    name = f"{device.type} {_processor()}"
    return {
        "command": sys.argv,
        "commit": commit.strip() if commit else None,
        "uncommitted_changes": bool(uncommitted_diff()),
        "versions": {**versions, **{name: version(name) for name in packages}},
        "plugins": describe_plugins(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else name,
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

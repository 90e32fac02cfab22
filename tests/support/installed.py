"""Programs run as a user of the installed package runs them."""

import os
import subprocess
from pathlib import Path

from sdkd_plugin.plugins import GROUP


def call(*command: str | Path, cwd: Path) -> str:
    """Runs a program that must succeed, without what would lend it this repository; returns what it
    printed.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def write_distribution(folder: Path, name: str, entry_points: str) -> None:
    """What pip leaves in `folder` of a distribution 1.5 with these entry points, without pip."""
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_points}\n")

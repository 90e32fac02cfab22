"""Programs run as a user of the installed package runs them."""

import os
import subprocess
from pathlib import Path


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

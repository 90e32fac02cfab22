"""Programs run as a user of the installed package runs them."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from sdkd_plugin.plugins import GROUP


def call(*command: str | Path, cwd: Path) -> str:
    """Runs a program that must succeed, kept from this repository; returns what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def make_environment(folder: Path, wheel: Path) -> Path:
    """A fresh environment with the package's wheel; returns its bin/.

    The wheel's dependencies are lent by the environment that runs the tests. The package is not: an
    editable install works through a .pth file, and those count in an environment's own
    site-packages only.
    """
    call(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    install(python, wheel)
    code = "import sysconfig; print(sysconfig.get_path('purelib'), end='')"
    own = Path(call(python, "-c", code, cwd=folder))
    (own / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = call(python, "-c", "import sdkd_plugin; print(sdkd_plugin.__file__)", cwd=folder)
    assert where.startswith(str(own))
    return folder / "bin"


def install(python: Path, distribution: Path, *options: str) -> None:
    """Installs a wheel, or a folder with a pyproject.toml, without network or dependencies."""
    pip = ("-m", "pip", "install", "-q", "--no-index", "--no-deps", *options)
    call(python, *pip, distribution, cwd=python.parent)


def write_distribution(folder: Path, name: str, entry_points: str) -> None:
    """What pip leaves in `folder` of a distribution 1.5 with these entry points, without pip."""
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_points}\n")

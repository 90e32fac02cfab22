"""What every test shares: where the real data lies, if it does, and the package installed from a
wheel.
"""

import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support import runs
from support.installed import call

from sdkd_plugin import plugins
from sdkd_plugin.registry import DATASETS, FORMATS, METHODS, MODELS

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder with real CIFAR-100 and teachers; the test is skipped, saying so, where it is
    absent.
    """
    if not SHARED.is_dir():
        pytest.skip(
            f"needs the real CIFAR-100 and teachers in {SHARED}, which are not part of this "
            f"repository"
        )
    return SHARED


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """The function that writes a run under a given LOG.PREFIX, for fixtures that several tests
    share.
    """
    return runs.write_run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run under the test's own folder."""
    return partial(runs.write_run, tmp_path)


@pytest.fixture
def open_doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has let no plugin in yet; what the test lets in from its own folder is gone
    after it.
    """
    registries = [METHODS, MODELS, DATASETS, FORMATS]
    for registry in registries:
        registry.load()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(plugins, "_doors", plugins._Doors({}, []))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a fresh environment with the wheel, built from a copy of the sources.

    The wheel's dependencies are lent by the environment that runs the tests. The package is not: an
    editable install works through a .pth file, and those count in an environment's own
    site-packages only.
    """
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "output", "__pycache__")
    source = shutil.copytree(ROOT, folder / "source", ignore=ignored)
    call(
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        folder,
        source,
        cwd=folder,
    )
    shutil.rmtree(source)
    call(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    programs = folder / "env" / "bin"
    (wheel,) = folder.glob("*.whl")
    call(
        programs / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        wheel,
        cwd=folder,
    )
    code = "import sysconfig; print(sysconfig.get_path('purelib'), end='')"
    own = Path(call(programs / "python", "-c", code, cwd=folder))
    (own / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = call(
        programs / "python", "-c", "import sdkd_plugin; print(sdkd_plugin.__file__)", cwd=folder
    )
    assert where.startswith(str(own))
    return programs

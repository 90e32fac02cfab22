"""What every test shares: where real data lies, if it does, and the package out of a wheel."""

import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support import runs
from support.installed import call, make_environment

from sdkd_plugin import plugins
from sdkd_plugin.registry import DATASETS, FORMATS, METHODS, MODELS

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder with real CIFAR-100 and teachers; without it the test is skipped, saying so."""
    if not SHARED.is_dir():
        pytest.skip(
            f"needs the real CIFAR-100 and teachers in {SHARED}, "
            "which are not part of this repository"
        )
    return SHARED


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Writes a run under a given LOG.PREFIX; a function for fixtures that several tests share."""
    return runs.write_run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run under the test's own folder."""
    return partial(runs.write_run, tmp_path)


@pytest.fixture
def open_doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has let no plugin in yet; the loose files that the test lets in, and whatever
    it imports from its own folder, are gone after it.
    """
    registries = [METHODS, MODELS, DATASETS, FORMATS]
    for registry in registries:
        registry.load()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(plugins, "_doors", plugins._Doors({}, []))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    loose = {plugin["module"] for plugin in plugins.describe_plugins() if not plugin["version"]}
    for name, module in list(sys.modules.items()):
        if name in loose or str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "output", "__pycache__")
    source = shutil.copytree(ROOT, folder / "source", ignore=ignored)
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    call(sys.executable, *build, cwd=folder)
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def programs(wheel: Path) -> Path:
    """bin/ of a fresh environment with the wheel."""
    return make_environment(wheel.parent / "env", wheel)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how many inputs each test of the fuzz tier tried, and how they ended."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    for report in reports:
        for key, value in getattr(report, "user_properties", []):
            if key == "fuzz" and report.when == "teardown":
                terminalreporter.write_line(f"fuzz: {value}")


@pytest.fixture
def here(tmp_path, monkeypatch, open_doors) -> Path:
    """The working directory, empty, of a process that has no plugin yet."""
    monkeypatch.chdir(tmp_path)
    return tmp_path

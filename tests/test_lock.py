"""requirements.lock pins what setup.cfg asks for, by hash, and does not say where it was made."""

import configparser
import re
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
PIN = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; (?P<marker>[^\\]+))? \\\n"
    r"(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
    re.MULTILINE,
)


def pins() -> dict[str, list[str]]:
    """Each package's pinned versions; platforms may differ."""
    found: dict[str, list[str]] = {}
    for pin in PIN.finditer(LOCK.read_text()):
        found.setdefault(canonicalize_name(pin["name"]), []).append(pin["version"])
    return found


def wanted() -> list[Requirement]:
    """What a run needs: the package's own requirements, the demo's and timm."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    texts = [config["options"]["install_requires"], *(extras[e] for e in ("demo", "plots", "timm"))]
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    return [Requirement(line) for line in lines if not line.startswith("sdkd-plugin")]


def test_all_that_a_run_needs_is_pinned_within_its_bounds():
    held = pins()
    needed = wanted()
    assert len(needed) > 12
    for requirement in needed:
        versions = held.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement.name} is not in the lock: make lock"
        assert all(requirement.specifier.contains(each) for each in versions), requirement


def test_every_line_is_a_pin_or_one_of_its_hashes():
    """No address, no path: where it was made is nobody's business, and would bind who uses it."""
    text = LOCK.read_text()
    assert PIN.sub("", text) == ""
    assert "://" not in text and "/" not in text


def test_the_torch_of_the_lock_is_one_that_the_tests_ran_with():
    (pinned,) = pins()["torch"]
    assert pinned.split(".")[0] == version("torch").split(".")[0]

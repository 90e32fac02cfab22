"""The site builds without a warning and shows what the repository holds."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

import sdkd_plugin
from sdkd_plugin import api
from sdkd_plugin.registry import METHODS

ROOT = Path(__file__).resolve().parents[1]
COMMAND = re.compile(r"^    (make \w+)", re.MULTILINE)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site's folder; built once, a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs"]
    done = subprocess.run(
        [*build, "-d", folder / "cache", ".", folder / "html"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def shown(page: Path) -> str:
    """A page's text, without tags."""
    return unescape(re.sub(r"<[^>]*>", "", page.read_text()))


def defined(page: Path) -> set[str]:
    """The full names of the objects that a page documents."""
    return set(re.findall(r'<dt class="sig[^"]*" id="([\w.]+)"', page.read_text()))


def test_each_method_has_a_page_with_its_card_and_its_class(site):
    for entry in METHODS:
        module = entry.build.__module__
        page = site / "docs" / "methods" / f"{module.rsplit('.')[-1]}.html"
        assert f"{module}.{entry.build.__name__}" in defined(page), entry.name
        assert "In your own loop." in shown(page), entry.name


def test_the_page_for_notebooks_documents_every_public_name(site):
    names = {*api.__all__, *sdkd_plugin.__all__} - {"__version__"}
    assert {f"sdkd_plugin.{name}" for name in names} <= defined(site / "docs/api/notebook.html")


@pytest.mark.parametrize("name", ["results", "results/laptop", "results/proxy"])
def test_a_page_of_results_leads_to_its_report_with_learning_curves(site, name):
    assert 'href="report.html"' in (site / name / "README.html").read_text()
    page = (ROOT / name / "README.md").read_text()
    methods = set(re.findall(r"^\| ([A-Za-z]\w*)[^|]* \| +\*{0,2}\d", page, re.MULTILINE))
    report = site / name / "report.html"
    assert "Learning curves" in shown(report) and "<svg" in report.read_text()
    assert methods and all(method in shown(report) for method in methods)
    mean = re.search(r"\d\d\.\d\d( ± \d\.\d\d)? \(\d\)", page)  # with its number of seeds
    assert mean and mean[0] in shown(report)


def test_the_start_page_has_the_first_command_and_is_where_one_enters(site):
    first, *_ = COMMAND.findall((ROOT / "README.md").read_text())
    assert first in shown(site / "docs" / "index.html")
    assert "url=docs/index.html" in (site / "index.html").read_text()

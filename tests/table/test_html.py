"""The page, read as text and opened in a real browser."""

import json
import re
import shutil
import subprocess

import pytest

from sdkd_plugin.runs.read import read_runs
from sdkd_plugin.table.cells import compare_runs
from sdkd_plugin.table.command import comparison_text, make_table
from sdkd_plugin.table.published import load_published

# Clicks heads and a legend box, notes what the page then shows, and leaves it where --dump-dom
# prints it.
SCRIPT = """
const told = {violations: []};
document.addEventListener("securitypolicyviolation",
  event => told.violations.push(event.blockedURI));
const column = (id, at) =>
  [...document.querySelectorAll(`#${id} tbody tr`)].map(row => row.cells[at].textContent);
const press = (id, at) => document.querySelectorAll(`#${id} thead button`)[at].click();
told.before = column("accuracy", 0);
press("accuracy", 1); told.descending = column("accuracy", 0);
told.state = document.querySelectorAll("#accuracy th")[1].getAttribute("aria-sort");
press("accuracy", 1); told.ascending = column("accuracy", 0);
press("accuracy", 0); told.names = column("accuracy", 0);
told.cleared = document.querySelectorAll("#accuracy th")[1].getAttribute("aria-sort");
press("details", 5); told.gains = column("details", 1);
press("details", 5); told.lowestGain = column("details", 1);
const curve = document.querySelector("g.s1");
document.querySelectorAll(".legend input")[1].click();
told.hidden = getComputedStyle(curve).display;
document.querySelectorAll(".legend input")[1].click();
told.shown = getComputedStyle(curve).display;
told.curves = document.querySelectorAll("polyline").length;
told.configs = document.querySelectorAll("#runs details").length;
const loaded = () => performance.getEntriesByType("resource").map(entry => entry.name);
window.addEventListener("load", () => setTimeout(() => {
  told.loaded = loaded();
  const place = document.createElement("pre");
  place.id = "told"; place.textContent = JSON.stringify(told);
  document.body.append(place);
}, 50));
"""


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("needs a Chromium on the PATH to open the page in")


@pytest.fixture(scope="module")
def page(write_run, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(folder, "NONE", seed, [50.0, 9.0 + seed])  # 9.50: as text it would sort above 70
        write_run(folder, "KD", seed, [50.0, 70.0 + seed])
        write_run(folder, "CRD", seed, [50.0, 71.0 + seed], finished=seed == 0)
    torn = write_run(folder, "KD", 7, [50.0, 70.0], name="<b>&torn") / "result.json"
    torn.write_text("<script>alert(1)</script>")
    return comparison_text(
        compare_runs(*read_runs([folder])), load_published(), "html", versus="KD"
    )


def test_page_needs_nothing_from_elsewhere(page):
    assert not re.search(r"""(?:src|href|url|import)\s*[=(:]\s*["']?[a-z/]""", page)
    assert "http:" not in page and "https:" not in page
    assert "default-src 'none'" in page


def test_foreign_text_is_escaped(page):
    assert "&lt;b&gt;&amp;torn" in page and "<b>&torn" not in page and "<script>alert" not in page


def test_page_holds_runs_configs_and_statistics(page):
    assert page.count("<details>") == 6
    assert (
        "SOLVER.LR_DECAY_STAGES" in page
        and "abc1234" in page
        and "KD, resnet56/resnet20, seed 1: top-1 71.00" in page
    )
    assert (
        'id="versus"' in page
        and "CRD, resnet56/resnet20, seed 1: unfinished, 2 epochs done, SOLVER.EPOCHS 2" in page
    )


def test_published_table_alone_is_a_page(tmp_path):
    make_table([], "html", str(tmp_path / "poster.html"), published="poster")
    page = (tmp_path / "poster.html").read_text()
    assert ">Gain</td>" in page and "<details>" not in page and "<svg" not in page


@pytest.mark.slow
def test_page_in_a_browser(page, tmp_path):
    path = tmp_path / "table.html"
    path.write_text(page.replace("</body>", f"<script>{SCRIPT}</script></body>"))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ]
    flags += [
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command = [browser(), *flags, "--virtual-time-budget=2000", "--dump-dom", f"file://{path}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    told = json.loads(
        re.search(r'<pre id="told">(.*?)</pre>', shown, re.DOTALL).group(1).replace("&gt;", ">")
    )
    assert told["before"] == ["teacher", "student", "KD", "CRD"]
    assert told["descending"] == ["teacher", "CRD", "KD", "student"]  # 72.34, 71.00, 70.50, 9.50
    assert told["ascending"] == ["student", "KD", "CRD", "teacher"]
    assert told["names"] == ["CRD", "KD", "student", "teacher"]
    assert (told["state"], told["cleared"]) == ("descending", None)
    assert told["gains"] == ["CRD", "KD", "student"]  # the student has no gain: empty stays last,
    assert told["lowestGain"] == ["KD", "CRD", "student"]  # either way
    assert (told["hidden"], told["shown"]) == ("none", "inline")
    assert (told["curves"], told["configs"]) == (6, 6)
    assert (told["loaded"], told["violations"]) == ([], [])

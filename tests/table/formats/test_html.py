"""The page, read as text and opened in a real browser."""

import json
import re
import shutil
import subprocess

import pytest
from support.tables import table

from sdkd_plugin.__main__ import main

# Clicks heads and a legend box, notes what the page then shows, and leaves it where
# --dump-dom prints it.
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
    return table(folder, "html", versus="KD")


def test_page_needs_nothing_from_elsewhere(page):
    assert not re.search(r"""(?:src|href|url|import)\s*[=(:]\s*["']?[a-z/]""", page)
    assert "http:" not in page and "https:" not in page
    assert "default-src 'none'" in page


def test_foreign_text_is_escaped(page):
    assert "&lt;b&gt;&amp;torn" in page and "<b>&torn" not in page and "<script>alert" not in page


def test_page_holds_runs_configs_and_statistics(page):
    assert page.count("<details>") == 6
    for text in (
        "SOLVER.LR_DECAY_STAGES",
        "abc1234",
        "KD, resnet56/resnet20, seed 1: top-1 71.00",
        'id="versus"',
        "CRD, resnet56/resnet20, seed 1: unfinished, 2 epochs done, SOLVER.EPOCHS 2",
    ):
        assert text in page


def test_page_of_another_metric_speaks_of_it(make_run, tmp_path):
    make_run("KD", 0, [60.0, 70.0], scores={"loss": [1.5, 1.25]})
    page = table(tmp_path, "html", metric="loss")
    assert "KD, resnet56/resnet20, seed 0: loss 1.2500" in page
    assert "Learning curves, and Cross entropy against cost" in page
    assert "down and left is better" in page and "accuracies" not in page
    assert 'aria-label="loss (nats) over epoch"' in page
    assert "<td>1.2500 at epoch 2</td>" in page  # of the best epoch by top-1
    assert "KD: 1.2500 nats (n = 1), 0.5 hours" in page


def test_published_table_alone_is_a_page(tmp_path):
    path = tmp_path / "poster.html"
    assert main(["table", "--published", "poster", "--format", "html", "--output", str(path)]) == 0
    page = path.read_text()
    assert ">Gain</td>" in page and "<details>" not in page and "<svg" not in page


@pytest.mark.slow
def test_page_in_a_browser(page, tmp_path):
    path = tmp_path / "table.html"
    path.write_text(page.replace("</body>", f"<script>{SCRIPT}</script></body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"]
    command = [browser(), *flags, "--dump-dom", f"file://{path}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    left = re.search(r'<pre id="told">(.*?)</pre>', shown, re.DOTALL).group(1)
    told = json.loads(left.replace("&gt;", ">"))

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

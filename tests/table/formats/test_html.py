"""The page, read as text and opened in a real browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from support.tables import table

from sdkd_plugin.__main__ import main

# Works the page as a reader does, and notes what it then shows.
SCRIPT = """
const told = {violations: []};
document.addEventListener("securitypolicyviolation",
  event => told.violations.push(event.blockedURI));
const lines = id => [...document.querySelectorAll(`#table-${id} tbody tr`)];
const column = (id, at) => lines(id).filter(row => row.checkVisibility())
  .map(row => row.cells[at].firstChild.textContent.trim());
const press = (id, at) => document.querySelectorAll(`#table-${id} thead button`)[at].click();
const state = at =>
  document.querySelectorAll("#table-accuracy thead th")[at].getAttribute("aria-sort");
told.before = column("accuracy", 0);
press("accuracy", 1); told.descending = column("accuracy", 0);
told.state = state(1);
press("accuracy", 1); told.ascending = column("accuracy", 0);
press("accuracy", 0); told.names = column("accuracy", 0);
told.cleared = state(1);
press("details", 5); told.gains = column("details", 1);
press("details", 5); told.lowestGain = column("details", 1);

const displays = () =>
  [...document.querySelectorAll("g.row-1")].map(g => getComputedStyle(g).display);
const boxes = [...document.querySelectorAll('.legend input[value="row-1"]')];
boxes[0].click();
told.hidden = [...new Set(displays())];
told.boxes = boxes.map(box => box.checked);
boxes[1].click();
told.shown = [...new Set(displays())];
told.atFirst = [...document.querySelectorAll(".legend input")].map(box => box.checked);

const part = document.getElementById("table-run-list").closest(".table");
const field = part.querySelector("input");
field.value = "crd SEED1"; field.dispatchEvent(new Event("input"));
told.filtered = column("run-list", 1);
told.count = part.querySelector("output").textContent;
const target = lines("run-list").find(row => row.hidden);
location.hash = target.id;
setTimeout(() => {
  told.arrived = [target.checkVisibility(), field.value];
  const config = target.querySelector("td:last-child a");
  told.folded = document.querySelector(config.hash).open;
  config.click();
  setTimeout(() => {
    told.opened = document.querySelector(config.hash).open;
    told.loaded = performance.getEntriesByType("resource").map(entry => entry.name);
    const root = document.documentElement;
    told.width = [innerWidth, root.scrollWidth - root.clientWidth];
    const regions = [...document.querySelectorAll(".scroll")];
    told.wide = regions.some(region => region.scrollWidth > region.clientWidth);
    told.reached = regions.every(region => region.tabIndex === 0);
    parent.postMessage(JSON.stringify(told), "*");
  }, 100);
}, 100);
"""
OUTER = """<iframe src="table.html" style="width: {width}px; height: 900px; border: 0"></iframe>
<script>addEventListener("message", event => {{
  const place = document.createElement("pre");
  place.id = "told"; place.textContent = event.data;
  document.body.append(place);
}});</script>"""


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("needs a Chromium on the PATH to open the page in")


@pytest.fixture(scope="module")
def page(write_run, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        write_run(folder, "NONE", seed, [50.0, 8.5 + seed])  # 9.50: as text it would sort above 70
        write_run(folder, "KD", seed, [50.0, 69.5 + seed])
        write_run(folder, "CRD", seed, [50.0, 71.0 + seed], finished=seed == 0)
    torn = write_run(folder, "KD", 7, [50.0, 70.0], name="<b>&torn") / "result.json"
    torn.write_text("<script>alert(1)</script>")
    studies = next(folder.glob("**/KD*/seed0")) / "studies"
    studies.mkdir()
    (studies / "per_class.csv").write_text("class,student\n<u>cat,50.0\n<u>dog,x\n")
    return table(folder, "html", versus="KD", curves=True)


class Elements(HTMLParser):
    """Each element's name, attributes, and the names of those it stands in."""

    VOID = ("meta", "input", "img", "link", "br")

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), tuple(self.open)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes, _ in self.found if name == tag]


def test_page_needs_nothing_from_elsewhere(page):
    assert not re.search(r"""(?:src|href|url|import)\s*[=(:]\s*["']?[a-z/]""", page)
    assert "http:" not in page and "https:" not in page
    assert "default-src 'none'" in page


def test_foreign_text_is_escaped(page):
    assert "&lt;b&gt;&amp;torn" in page and "<b>&torn" not in page and "<script>alert" not in page
    assert "student is &#39;x&#39;, not a number" in page and "<u>" not in page


def test_every_element_is_closed_and_every_id_is_one_elements(page):
    elements = Elements(page)
    assert elements.open == []
    ids = [attributes["id"] for _, attributes, _ in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for key in ("href", "aria-labelledby", "xlink:href"):
        led = {attributes[key] for _, attributes, _ in elements.found if key in attributes}
        assert led and {name.removeprefix("#") for name in led} <= set(ids), key


def test_a_screen_reader_finds_its_way(page):
    elements = Elements(page)
    assert elements.all("html")[0]["lang"] == "en"
    first = next(a for tag, a, inside in elements.found if tag == "a")
    assert first["href"] == "#main" and [a["id"] for a in elements.all("main")] == ["main"]
    headings = [int(tag[1]) for tag, _, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and set(headings[1:]) == {2}

    tables = len(elements.all("table"))
    assert tables == len(elements.all("caption")) == page.count("<thead") > 5
    assert all(a.get("scope") in ("col", "row") for a in elements.all("th"))
    bodies = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    for row in re.findall(r"<tr.*?</tr>", "".join(bodies), re.DOTALL):
        assert row.count('scope="row"') >= 1
    for attributes in elements.all("svg"):
        named = attributes.get("role") == "img" and attributes.get("aria-label")
        assert named or attributes.get("aria-hidden") == "true"
    regions = [a for a in elements.all("div") if a.get("class") == "scroll"]
    assert all(a["role"] == "region" and a["tabindex"] == "0" for a in regions) and regions
    for tag, attributes, inside in elements.found:
        assert tag != "input" or "label" in inside, attributes


def test_page_holds_every_section_and_its_link(page):
    sections = [a["id"] for a in Elements(page).all("section")]
    assert sections == [
        *("tables", "curves", "cost", "ranks", "pairs", "classes", "calibration"),
        *("fidelity", "attention", "excluded", "faults", "runs", "configs"),
    ]
    nav = re.search(r"<nav.*?</nav>", page, re.DOTALL).group()
    assert re.findall(r'href="#(\w+)"', nav) == sections


def test_page_holds_runs_configs_and_statistics(page):
    assert page.count("<details") == 4  # what all have, and three configs
    for text in (
        "SOLVER.LR_DECAY_STAGES",
        "abc1234",
        'id="table-versus"',
        "CRD, resnet56/resnet20: seeds 0, 1, 2",
        "unfinished, 2 epochs done, SOLVER.EPOCHS 2",
    ):
        assert text in page
    assert len(re.findall(r'<tr id="run-[\w-]+"', page)) == 9


def test_page_of_another_metric_speaks_of_it(make_run, tmp_path):
    make_run("KD", 0, [60.0, 70.0], scores={"loss": [1.5, 1.25]})
    page = table(tmp_path, "html", metric="loss", curves=True)
    assert "Cross entropy against cost" in page
    assert "down and left is better" in page and "accuracies" not in page
    assert 'aria-label="resnet56/resnet20: loss (nats) over epoch, a line for each' in page
    assert ">1.2500 at epoch 2</td>" in page  # of the best epoch by top-1
    assert "KD: 1.2500 nats (n = 1), 0.5 hours" in page


def test_of_many_methods_some_lines_are_shown_at_first(make_run, tmp_path):
    names = ["NONE", "KD", "DML", "FITNET", "AT", "SP", "CC", "VID", "RKD", "PKT", "CRD", "DKD"]
    for place, name in enumerate([*names, "SDKD"]):
        make_run(name, 0, [30.0 + (place * 7) % 13])
    boxes = re.findall(
        r'value="row-\d+"( checked)?>.*?</svg> ([^<]+)</label>',
        table(tmp_path, "html", curves=True),
    )
    shown = {name for checked, name in boxes if checked}
    assert len(boxes) == 2 * 13 and len(shown) == 8
    # from KD on 7, 1, 8, 2, 9, 3, 10, 4, 11, 5, 12, 6 above the student: the six best, with
    assert shown == {"DKD", "PKT", "VID", "SP", "FitNet", "KD", "student", "SDKD"}


def test_published_table_alone_is_a_page(tmp_path):
    path = tmp_path / "poster.html"
    assert main(["table", "--published", "poster", "--format", "html", "--output", str(path)]) == 0
    page = path.read_text()
    assert ">Gain</th>" in page and "<details" not in page and "<svg" not in page


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_page_in_a_browser(page, tmp_path, width):
    (tmp_path / "table.html").write_text(
        page.replace("</body>", f"<script>{{{SCRIPT}}}</script></body>")
    )
    (tmp_path / "outer.html").write_text(OUTER.format(width=width))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000"]
    flags += ["--window-size=1400,1000"]
    command = [browser(), *flags, "--dump-dom", f"file://{tmp_path / 'outer.html'}"]
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
    assert (told["hidden"], told["shown"]) == (["none"], ["inline"])
    assert told["boxes"] == [False, False] and all(told["atFirst"])
    assert (told["filtered"], told["count"]) == (["CRD"], "1 of 9 lines")
    assert told["arrived"] == [True, ""]  # a link to what the filter hides ends the filter
    assert (told["folded"], told["opened"]) == (False, True)
    assert (told["loaded"], told["violations"]) == ([], [])
    assert told["width"] == [width, 0] and told["reached"]
    assert told["wide"]  # the tables scroll, the page does not

"""Names from other people's run folders reach every format, and steer none of them."""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from support.runs import METRICS, write_run
from support.tables import table

from sdkd_plugin.__main__ import main
from sdkd_plugin.runs.record import Metric

NAMES = {
    "terminal": "\x1b[2J\x1b]0;owned\x07",
    "lines": "a\nb\r\nc\x0b\u2028d",
    "bidi": "\u202eDKD\u2066",
    "latex": r"\input{/etc/passwd}$\bad$^^M%_&#~",
    "latex row": "[1cm]",
    "latex star": "*x",
    "csv": "=HYPERLINK(1)",
    "csv at": "@SUM(1)",
    "csv minus": "-1+cmd|x",
    "html": "<img src=x onerror=alert(1)>&lt;\"'",
    "link": "[x](javascript:y)![z](http://z)",
    "md": "**a** `b` <b>|c",
}
STYLES = ("terminal", "md", "latex", "csv", "html")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A finished run for each of NAMES, which is its method, teacher, student and a metric's label,
    in a folder of that name; and one that is invalid.
    """
    prefix = tmp_path_factory.mktemp("foreign")
    model = write_run(prefix, "KD", 0, [60.0, 61.0])
    for number, name in enumerate(NAMES.values()):
        record = json.loads((model / "result.json").read_text())
        folder = prefix / name.replace("/", "∕") / "seed0"
        shutil.copytree(model, folder)
        for key in ("DISTILLER.TYPE", "DISTILLER.TEACHER", "DISTILLER.STUDENT"):
            record["identity"][key] = name
        record["identity"] |= {"data": f"{number}", name: name, f"{name}.X": name}
        record["environment"] |= {"device": name, "command": [name], "versions": {name: name}}
        record["metrics"]["top1"] |= {"label": name, "title": name}
        (folder / "identity.json").write_text(json.dumps(record["identity"]))
        (folder / "result.json").write_text(json.dumps(record))
    broken = prefix / f"broken {NAMES['terminal']}" / "seed0"
    shutil.copytree(model, broken)
    (broken / "result.json").write_text(json.dumps({"method": NAMES["terminal"]}))
    return prefix


@pytest.mark.parametrize("style", STYLES)
def test_nothing_but_printable_characters_comes_out(foreign, style):
    shown = table(foreign, style, best_epoch=True)
    assert "\\x1b" in shown or "textbackslash{}x1b" in shown
    odd = {letter for letter in shown if not letter.isprintable()}
    assert odd == {"\n"}


def test_an_error_with_a_foreign_name_is_one_printable_line(foreign, capsys):
    assert main(["table", str(foreign), "--versus", NAMES["terminal"] + "x"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.strip().isprintable()


def test_no_cell_of_csv_is_a_formula(foreign):
    for record in csv.reader(io.StringIO(table(foreign, "csv"))):
        for cell in record:
            assert cell[:1] not in tuple("=+@") and not re.match(r"-[^.\d]|-\d+\+", cell)


def test_json_is_ascii_and_holds_the_names_as_they_are(foreign):
    shown = table(foreign, "json")
    assert {letter for letter in shown if not " " <= letter <= "~"} == {"\n"}
    methods = {record.get("method") for record in json.loads(shown)["records"]}
    assert NAMES["terminal"] in methods and NAMES["bidi"] in methods


def test_numbers_of_csv_stay_numbers(make_run, tmp_path):
    make_run("NONE", 0, [70.0])
    make_run("KD", 0, [69.0])
    rows = list(csv.DictReader(io.StringIO(table(tmp_path, "csv"))))
    assert [row["gain"] for row in rows] == ["", "-1.0"]


def test_latex_has_no_command_of_a_strangers(foreign):
    shown = table(foreign, "latex")
    commands = set(re.findall(r"\\([A-Za-z]+)", shown))
    assert "input" not in commands and "bad" not in commands
    assert not re.search(r"\\\\\s*[*\[]|\\midrule\s*[*\[]", shown)
    assert "^^" not in re.sub(r"(?m)^%.*$", "", shown)


def test_a_label_of_latex_is_made_of_letters(tmp_path):
    name = r"x}\input{y"
    metrics = {**METRICS, name: Metric("x", "X", "", "higher")}
    write_run(tmp_path, "KD", 0, [60.0], metrics=metrics, scores={name: [1.0]})
    assert r"\label{tab:x-input-y}" in table(tmp_path, "latex", metric=name)


class Tags(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_html_has_no_element_of_a_strangers(foreign):
    tags = Tags(table(foreign, "html")).found
    assert {tag for tag, _ in tags}.isdisjoint({"img", "b"})
    assert not any(key.startswith("on") for _, attributes in tags for key in attributes)


def test_markdown_has_no_link_html_or_emphasis_of_a_strangers(foreign):
    lines = table(foreign, "md").splitlines()
    shown = re.sub(r"\\[!-/:-@\[-`{-~]", "", "\n".join(lines))  # without what is escaped
    assert "<" not in shown and "`" not in shown and "](" not in shown
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    assert len(set(widths)) == 2  # two tables, every row as wide as its head


def test_png_takes_a_name_as_it_is(foreign, tmp_path):
    pytest.importorskip("matplotlib")
    assert table(foreign, "png").startswith(b"\x89PNG")

"""Each method's card lists its settings as registered: every key, its default, what it may hold."""

import ast
import re
from pathlib import Path

import pytest

from sdkd_plugin.registry import METHODS, Entry
from sdkd_plugin.settings import flatten

CARDS = Path(__file__).resolve().parents[1] / "docs" / "methods"
HEAD = ["key", "default", "allowed", "meaning"]

every_method = pytest.mark.parametrize("entry", list(METHODS), ids=lambda entry: entry.name)


def card(entry: Entry) -> list[str]:
    """The lines of the method's card."""
    return (CARDS / f"{entry.build.__module__.rsplit('.')[-1]}.md").read_text().splitlines()


def settings(lines: list[str]) -> list[list[str]]:
    """The cells of each row of the card's settings table; [] where it has none."""
    starts = [number for number, line in enumerate(lines) if cells(line) == HEAD]
    if not starts:
        return []
    (start,) = starts
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def default(text: str, wanted: object) -> object:
    """A default as a card writes it; names stand there without quotes."""
    return text if isinstance(wanted, str) and wanted else ast.literal_eval(text)


@every_method
def test_the_card_lists_every_setting_with_its_default_and_what_it_may_hold(entry):
    config = dict(flatten(entry.info.get("config", {})))
    rows = settings(card(entry))
    assert all(len(row) == len(HEAD) and all(row) for row in rows)
    assert [key for key, *_ in rows] == list(config), "in the order of CONFIG, nested keys dotted"
    for key, shown, allowed, _ in rows:
        found = default(shown, config[key])
        assert found == config[key] and type(found) is type(config[key]), key
        assert allowed == str(entry.info["allowed"][key]), key


def test_each_numbered_difference_stands_at_its_line_in_the_code():
    compared = 0
    for path in [*CARDS.glob("*.md"), CARDS.parent / "dot.md"]:
        text = path.read_text()
        file = re.search(r"`# DIFF n` in\s+`([^`]+)`", text)
        if file is None:
            continue
        listed = text[text.index("**Differences") :].split("\n**")[0]
        code = (CARDS.parents[1] / file[1]).read_text()
        marks = ",".join(re.findall(r"DIFF ([\d, ]+)", code))
        assert set(re.findall(r"^(\d+)\. ", listed, re.M)) == set(re.findall(r"\d+", marks)), path
        compared += 1
    assert compared > 30


@every_method
def test_the_card_uses_no_first_name_of_a_key(entry):
    text = "\n".join(card(entry))
    for first in entry.info.get("renamed", {}):
        if first != "T":  # which is the teacher, too
            assert not re.search(rf"\b{re.escape(first)}\b", text), first

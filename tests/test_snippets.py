"""Every method's card ends in a snippet for one's own loop, which runs and prints what it says."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "methods"
CARDS = sorted(path for path in FOLDER.glob("*.md") if path.stem not in ("README", "cost"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTS = re.compile(r"# prints (.+)$", re.MULTILINE)

each_card = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)


def printed(card: Path, block: re.Match) -> list[str]:
    """The lines that a block prints, run alone; its errors name the card and the line in it."""
    above = "\n" * card.read_text().count("\n", 0, block.start(1))
    code = compile(above + block[1], str(card), "exec")

    with redirect_stdout(StringIO()) as output, torch.random.fork_rng(devices=[]):
        exec(code, {"__name__": "__main__"})
    return output.getvalue().splitlines()


@each_card
def test_a_card_ends_in_a_short_snippet_of_its_method(card):
    last_section = card.read_text().rstrip().split("\n**")[-1]
    assert last_section.startswith("In your own loop.** ") and last_section.endswith("\n```")

    (snippet,) = BLOCK.findall(last_section)
    assert f"from sdkd_plugin.distillers.{card.stem} import " in snippet
    assert 5 <= sum(bool(line) for line in snippet.splitlines()) <= 12
    assert max(map(len, snippet.splitlines())) <= 100


@each_card
def test_every_block_of_a_card_prints_what_it_says(card):
    blocks = list(BLOCK.finditer(card.read_text()))
    assert blocks
    for block in blocks:
        said = PRINTS.findall(block[1])
        assert said and printed(card, block) == said

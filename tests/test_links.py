"""Every relative link in the repository's Markdown leads to something that is there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")


def pages() -> list[Path]:
    tracked = subprocess.check_output(["git", "-C", ROOT, "ls-files", "*.md"], text=True)
    return [ROOT / name for name in tracked.splitlines()]


def anchors(page: Path) -> set[str]:
    """A page's headings as GitHub links to them."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(page: Path, text: str) -> list[str]:
    found = []
    for link in LINK.findall(CODE.sub("", FENCE.sub("", text))):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_its_links_lead_somewhere(page):
    assert not broken(page, page.read_text())


def test_a_link_that_leads_nowhere_is_found():
    page = ROOT / "README.md"
    good = "[a](docs/trust.md) [b](https://example.org/x) [c](#data) `[d](nix)`"
    assert broken(page, good) == []
    bad = "[a](docs/nix.md) [b](#nix) [c](docs/trust.md#nix)"
    assert broken(page, bad) == ["docs/nix.md", "#nix", "docs/trust.md#nix"]

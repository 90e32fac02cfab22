"""docs/mdistiller.md says of every method what registration does."""

from pathlib import Path

import pytest

from sdkd_plugin.registry import METHODS
from sdkd_plugin.upstream.registration import needs_trainer, obstacle

LINES = (Path(__file__).resolve().parents[2] / "docs" / "mdistiller.md").read_text().splitlines()


@pytest.mark.parametrize(
    "entry", [entry for entry in METHODS if entry.name != "NONE"], ids=lambda entry: entry.name
)
def test_the_table_says_what_registration_does(entry):
    (line,) = [line for line in LINES if line.startswith(f"| {entry.name} |")]
    reason = obstacle(entry)
    assert ("| cannot |" in line) == (reason is not None)
    assert ("| works with our trainer entry" in line) == (reason is None and needs_trainer(entry))
    assert line.endswith(f"| {reason or ''} |")

"""`methods` says of every method what registration does."""

import pytest

from sdkd_plugin.__main__ import main
from sdkd_plugin.registry import METHODS
from sdkd_plugin.upstream.methods import method_rows
from sdkd_plugin.upstream.registration import THEIRS, needs_trainer, obstacle


@pytest.mark.parametrize(
    "entry", [entry for entry in METHODS if entry.name != "NONE"], ids=lambda entry: entry.name
)
def test_the_list_says_what_registration_does(entry):
    ((_, how, why_not),) = [row for row in method_rows() if row[0] == entry.name]
    reason = obstacle(entry)
    assert (how == "cannot") == (reason is not None)
    assert how.startswith("works with our trainer entry") == (
        reason is None and needs_trainer(entry)
    )
    assert why_not == (reason or "")


def test_the_command_prints_a_line_for_each(capsys):
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    for name, _, why_not in method_rows():
        (line,) = [line for line in printed.splitlines() if f" {name} " in line]
        assert why_not in line


def test_what_mdistiller_has_itself_is_what_its_registry_holds(checkout, call):
    code = "from mdistiller.distillers import distiller_dict as d; print(*sorted(d))"
    theirs = set(call(checkout, "-c", code).stdout.split()) - {"NONE"}
    assert theirs == set(THEIRS)

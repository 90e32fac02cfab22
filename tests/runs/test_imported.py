"""Whether code from outside is still what a run was made with."""

import json

import pytest

from sdkd_plugin.errors import UserError
from sdkd_plugin.runs import imported
from sdkd_plugin.runs.imported import (
    add_changed_code,
    changed_code,
    code_of,
    recorded_environment,
)


def entry(module: str, digest: str | None, given: str | None = None, **more) -> dict:
    loose = {"distribution": None, "version": None}
    return {"module": module, "given": given, **loose, "sha256": digest, **more}


OLD = entry("mine", "0123456789abcdef", "deep/mine.py")
NEW = entry("mine", "fedcba9876543210", "./mine.py")
HELPER = entry("helper", "1111111122222222")


@pytest.fixture
def here(monkeypatch):
    """Says what is imported here."""

    def say(*plugins: dict) -> None:
        monkeypatch.setattr(imported, "describe_plugins", lambda: list(plugins))

    return say


def test_a_changed_file_is_named_as_it_is_given_here_with_both_hashes(here):
    here(HELPER, NEW)
    assert changed_code({"plugins": [HELPER, OLD]}) == "./mine.py 01234567 -> fedcba98"
    assert changed_code({"plugins": [HELPER, NEW]}) == ""


def test_what_is_imported_on_one_side_alone_counts_for_a_run_that_goes_on(here):
    here(NEW)
    then = {"plugins": [HELPER]}
    told = "helper 11111111 -> not imported, ./mine.py not imported -> fedcba98"
    assert changed_code(then) == told
    assert changed_code(then, finished=True) == ""
    assert changed_code({"plugins": [OLD, HELPER]}, finished=True) == (
        "./mine.py 01234567 -> fedcba98"
    )


def test_the_last_code_of_a_run_that_had_several_is_compared(here):
    here(OLD)
    recorded = {"plugins": [OLD, {**NEW, "from_epoch": 2}]}
    assert changed_code(recorded) == "deep/mine.py fedcba98 -> 01234567"
    assert code_of(recorded) == [("mine", "01234567"), ("mine", "fedcba98")]


def test_a_run_that_records_nothing_of_it_is_not_judged(here):
    here(NEW)
    for environment in ({}, {"plugins": None}):
        assert changed_code(environment) == "" and code_of(environment) == []


def test_a_module_without_a_file_has_no_hash(here):
    here(entry("mine", None, "deep/mine.py"))
    assert changed_code({"plugins": [entry("mine", None)]}) == ""
    assert changed_code({"plugins": [OLD]}) == "deep/mine.py 01234567 -> no file"


def test_a_strangers_name_steers_no_terminal(here):
    here()
    assert changed_code({"plugins": [entry("m\x1b[2J", "0" * 16)]}) == (
        "m\\x1b[2J 00000000 -> not imported"
    )


def test_changes_are_added_with_the_epoch_that_they_begin_at(here, tmp_path):
    file = tmp_path / "environment.json"
    file.write_text(json.dumps({"threads": 1, "plugins": [OLD, HELPER]}))
    here(NEW, HELPER)
    wanted = [OLD, HELPER, {**NEW, "from_epoch": 3}]
    assert add_changed_code(tmp_path, 3) == wanted
    assert json.loads(file.read_text()) == {"threads": 1, "plugins": wanted}

    # the same again changes nothing; the first code again is a change
    before = file.stat().st_mtime_ns
    assert add_changed_code(tmp_path, 5) == wanted and file.stat().st_mtime_ns == before
    here(OLD, HELPER)
    assert add_changed_code(tmp_path, 7) == [*wanted, {**OLD, "from_epoch": 7}]


def test_nothing_is_made_up_for_a_run_that_records_nothing(here, tmp_path):
    here(NEW)
    assert add_changed_code(tmp_path, 2) == [NEW] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "plugins",
    [
        "x",
        {"mine": 1},
        ["mine"],
        [{"sha256": "0"}],
        [{"module": "a", "sha256": 1}],
        [{**OLD, "given": 1}],
    ],
)
def test_what_no_run_can_have_written_is_refused_with_its_file(plugins, tmp_path):
    (tmp_path / "environment.json").write_text(json.dumps({"plugins": plugins}))
    with pytest.raises(UserError, match=r"environment.json: environment.plugins is .*remove the"):
        recorded_environment(tmp_path)

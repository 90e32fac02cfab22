"""What keys may hold: which values each kind admits, how it says itself; no key is forgotten."""

import math

import pytest

from sdkd_plugin.allowed import (
    Above,
    Anything,
    AtLeast,
    Between,
    FilePath,
    FolderName,
    Numbers,
    Odd,
    OneOf,
)
from sdkd_plugin.config import check_config, check_method, default_config
from sdkd_plugin.defaults import ALLOWED, DEFAULTS, RENAMED_VALUES
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS
from sdkd_plugin.settings import flatten

NO_NUMBERS = (math.nan, math.inf, -math.inf, True, "1", None, [1])
CASES = [
    (Above(0), "above 0", (1e-300, 1, 4.0, 10**400), (0, 0.0, -1)),
    (AtLeast(1), "1 or more", (1, 1.0, 7), (0, 0.999)),
    (Between(0), "from 0 to any", (0, 10**400), (-1e-9,)),
    (Between(0, 1.0), "from 0 to 1.0", (0, 1, 0.5), (-0.1, 1.1)),
    (Between(0, 1, without_high=True), "from 0 to below 1", (0, 0.999), (1, 1.0, -0.1)),
    (
        Between(0, 1, without_low=True, without_high=True),
        "above 0 to below 1",
        (1e-9, 0.999),
        (0, 0.0, 1, 1.0),
    ),
    (Odd(), "odd numbers from 1", (1, 3), (0, 2, -1)),
]
LISTS = [
    (Numbers("numbers"), ([], [2, 1.5], (1, 2)), ([math.nan], [True], ["1"], [[1]])),
    (Numbers("three", length=3), ([0, 1, 2],), ([0, 1], [0, 1, 2, 3], [])),
    (Numbers("above 0", Above(0), length=3), ([1, 2, 3],), ([1, 0, 3], [1, 2])),
    (Numbers("ascending", ascending=True), ([], [1, 1, 2.5]), ([2, 1],)),
    (Numbers("places", AtLeast(1), whole=True, different=True), ([], [3, 1]), ([1.0], [2, 2], [0])),
]


@pytest.mark.parametrize("allowed, text, good, bad", CASES, ids=[text for _, text, _, _ in CASES])
def test_numbers_in_and_out_of_each_range(allowed, text, good, bad):
    assert str(allowed) == text
    for value in good:
        allowed.check("A.KEY", value)
    for value in (*bad, *NO_NUMBERS):
        with pytest.raises(UserError) as caught:
            allowed.check("A.KEY", value)
        assert str(caught.value) == f"A.KEY is {value}; allowed: {text}"


@pytest.mark.parametrize("allowed, good, bad", LISTS, ids=[str(allowed) for allowed, _, _ in LISTS])
def test_lists(allowed, good, bad):
    for value in good:
        allowed.check("A.KEY", value)
    for value in bad:
        with pytest.raises(UserError) as caught:
            allowed.check("A.KEY", value)
        assert str(caught.value) == f"A.KEY is {value}; allowed: {allowed}"


@pytest.mark.parametrize("key", ["EXPERIMENT.PROJECT", "EXPERIMENT.NAME", "EXPERIMENT.TAG"])
@pytest.mark.parametrize(
    "name",
    ["../up", "a/../../b", "..", "/etc/x", "a\\..\\b", "\\x", "a\nb", "a\0b", "\x1b[2J", "\ud800"]
    + ["x" * 300, "a/" + "é" * 200, "\u202e"],
)
def test_a_name_that_leads_out_or_cannot_be_printed_is_refused(key, name):
    with pytest.raises(UserError, match=f"^{key} is .*; allowed: a name of printable") as caught:
        ALLOWED[key].check(key, name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_names_that_stay_below_the_prefix_are_allowed():
    for name in ("", "kd,res56,res20", "w/absname", "a..b", "über 1", ".hidden", "x" * 240):
        FolderName().check("EXPERIMENT.NAME", name)


def test_a_path_may_lead_anywhere_but_must_be_one():
    for path in ("../data", "/data/c100.npz", "", "caf\udce9"):
        FilePath().check("DATASET.ROOT", path)
    for path in ("a\0b", "a\nb", "\ud800", "\x1b]0;x\x07"):
        with pytest.raises(UserError, match="allowed: a path of printable"):
            FilePath().check("DATASET.ROOT", path)


def test_names_are_shown_in_their_order_and_an_unknown_one_with_the_nearest():
    allowed = OneOf(("step", "epoch", "ema"), "moment")
    assert str(allowed) == "step, epoch, ema"
    allowed.check("A.KEY", "ema")
    with pytest.raises(
        UserError,
        match=r"unknown moment 'steps' in A\.KEY: did you mean 'step'\? known: ema, epoch, step",
    ):
        allowed.check("A.KEY", "steps")
    with pytest.raises(UserError, match="unknown value 'b' in A.KEY"):
        OneOf(("a",)).check("A.KEY", "b")


def test_anything_goes_where_nothing_is_asked():
    for value in ("", True, math.nan, [1], None):
        Anything().check("A.KEY", value)
    assert str(Anything()) == "any of its type"


def test_every_shared_key_is_declared_and_its_default_allowed():
    assert ALLOWED.keys() == dict(flatten(DEFAULTS)).keys()
    check_config(default_config())
    for key, names in RENAMED_VALUES.items():
        assert not set(names) & set(ALLOWED[key].names)
        for today, value in names.values():
            assert value in ALLOWED[today].names


@pytest.mark.parametrize("entry", list(METHODS), ids=lambda entry: entry.name)
def test_every_key_of_a_method_is_declared_and_its_default_allowed(entry):
    keys = dict(flatten(entry.info.get("config", {}))).keys()
    assert entry.info.get("allowed", {}).keys() == keys
    check_method(default_config(), entry.name)
    for key in entry.info.get("epoch_keys", ()):
        assert key in keys
    for first, today in entry.info.get("renamed", {}).items():
        assert today in keys and first not in keys
        assert first.rpartition(".")[0] == today.rpartition(".")[0], "a name changes, not a place"


@pytest.mark.parametrize("entry", list(METHODS), ids=lambda entry: entry.name)
def test_no_weight_may_be_negative_or_infinite(entry):
    weights = {
        key: allowed
        for key, allowed in entry.info.get("allowed", {}).items()
        if key.endswith("_WEIGHT")
    }
    assert weights or entry.name == "NONE"
    for key, allowed in weights.items():
        assert allowed == AtLeast(0), key

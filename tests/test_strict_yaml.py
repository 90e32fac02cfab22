"""The one reader of users' yaml files: what it refuses, how fast, and what it goes on reading."""

import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdkd_plugin.__main__ import main
from sdkd_plugin.errors import UserError
from sdkd_plugin.strict_yaml import MAX_BYTES, read_yaml

LAUGHS = "a:\n  - &l0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"  - &l{n} [{','.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
REFUSED = [
    ("a: 1\nb: 2\na: 3", "'a' stands in line 1 and again in line 3"),
    ("x:\n  a: 1\n  'a': 1", "'a' stands in line 2 and again in line 3"),
    ("1: a\n0x1: b", "1 stands in line 1 and again in line 2"),
    ("x: {a: 1, a: 1}", "'a' stands in line 1 and again in line 1"),
    (LAUGHS, "more than 50,000 values"),
    (f"a: [{'1, ' * 60_000}]", "more than 50,000 values"),
    ("a: &a [1, *a]", "alias 'a' in line 1 stands for nothing before it"),
    ("a: *nix", "alias 'nix' in line 1 stands for nothing before it"),
    ("[" * 5000, "nest"),
    ("? " * 5000, "nested deeper than 32 levels"),
    ("a:\n" + "".join(f"{' ' * n}- \n" for n in range(1, 60)), "nested deeper than 32 levels"),
    ("a: 1\n---\nb: 2", "a second document begins in line 2"),
    ("a: \0", "control characters"),
    ('a: "\\0"', "NUL or half a character"),
    ('a: "\\ud800"', "character"),
    ('"\\0": 1', "NUL or half a character"),
    (f"a: {'9' * 400}", "the number in line 1 has 400 characters"),
    (f"a: {'1:' * 400}1", "the number in line 1 has 801 characters"),
    ("a: 0x_", "'0x_' in line 1: invalid literal"),
    ("a: =", "tag:yaml.org,2002:value"),
    ("a: !!int x", "line 1 has the tag 'tag:yaml.org,2002:int'"),
    ("a: !!timestamp x", "tags are not read here"),
    ("a: !!python/object/apply:os.system [exit]", "tags are not read here"),
    ("? {a: 1}\n: 2", "a key in line 1 is a dict"),
    ("<<: 1", "<< in line 1 merges what is no mapping"),
    ("a: {}\n<<: {}\n<<: {}", "<< stands in line 2 and again in line 3"),
    ("SOLVER:\n\tLR: 1", "no valid yaml"),
    ("x" * (MAX_BYTES + 1), "more than 1,048,576 bytes"),
    ("", "holds NoneType, not a tree of keys"),
    ("# nothing\n", "holds NoneType"),
    ("[1]", "holds list"),
]


def reading(text: str, folder: Path) -> dict:
    path = folder / "some.yaml"
    path.write_text(text)
    return read_yaml(path, "config file", "see configs/")


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=lambda text: repr(text[:30]))
def test_what_is_not_meant_is_refused_in_one_short_line_at_once(text, message, tmp_path):
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        reading(text, tmp_path)
    assert time.process_time() - began < 2
    said = str(caught.value)
    assert message in said and said.startswith("config file '/")
    assert len(said.splitlines()) == 1 and len(said) < 800


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(UserError, match="no valid yaml: 'utf-8' codec"):
        read_yaml(path, "config file", "see configs/")


@pytest.mark.parametrize("kind", ["sweep", "train"])
@pytest.mark.parametrize("place", ["fifo", "folder", "/dev/zero", "nothing", "a\0b", "x" * 300])
def test_what_is_no_file_is_refused_and_nothing_waits_for_it(kind, place, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    path = str(tmp_path / place)
    assert main([kind, path] if kind == "sweep" else [kind, "--cfg", path]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert any(said in error for said in ("no regular file", "cannot be read", "null byte"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, d: 0}\nc: {<<: *x, d: 2}", {"a": {"b": 1, "d": 0}, "c": {"b": 1, "d": 2}}),
        ("c: {<<: [{b: 1}, {b: 2, e: 3}]}", {"c": {"b": 1, "e": 3}}),
        ("'<<': 1", {"<<": 1}),
        ("%YAML 1.1\n---\na: [1.5, 1e-3, on, ~, '1', .inf]\n...\n", None),
        ("a: 2024-01-01\nb: 2024-13-45", {"a": "2024-01-01", "b": "2024-13-45"}),
        ("\ufeffa: ü", {"a": "ü"}),
        ("a: !!str 2024", {"a": "2024"}),
        ("1: a", {1: "a"}),
    ],
)
def test_what_is_meant_is_read(text, wanted, tmp_path):
    read = reading(text, tmp_path)
    assert read == (yaml.safe_load(text) if wanted is None else wanted)


def test_twenty_thousand_values_are_read_soon(tmp_path):
    began = time.process_time()
    read = reading(f"seeds: {list(range(20_000))}", tmp_path)
    assert read["seeds"][-1] == 19_999 and time.process_time() - began < 3


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20)
LEAVES |= st.floats(allow_nan=False)
NODES = st.recursive(
    LEAVES, lambda node: st.lists(node) | st.dictionaries(st.text(max_size=9), node), max_leaves=20
)


@settings(deadline=None, derandomize=True)
@given(tree=st.dictionaries(st.text(max_size=9), NODES))
def test_it_reads_what_the_library_reads(tree, tmp_path_factory):
    text = yaml.safe_dump(tree)
    if "\\0" not in text:
        assert reading(text, tmp_path_factory.mktemp("read")) == yaml.safe_load(text)


@settings(deadline=None, derandomize=True)
@given(text=st.text(alphabet=st.sampled_from("ab1:-?[]{},&*!|>'\"%@#~<= \n\t\\0x."), max_size=60))
def test_any_text_is_read_or_refused(text, tmp_path_factory):
    try:
        assert isinstance(reading(text, tmp_path_factory.mktemp("read")), dict)
    except UserError as error:
        assert "some.yaml" in str(error)


def test_the_inputs_that_broke_it_once_are_read_or_refused(shared):
    files = sorted(Path(shared, "cases").glob("*/*.yaml"))
    if not files:
        pytest.skip(f"no cases in {shared}")
    for file in files:
        try:
            read_yaml(file, "config file", "see configs/")
        except UserError as error:
            assert file.name in str(error)

"""Whatever a file holds, its reader gives a value or says in a UserError why not; it never fails in
another way, and never takes long. Seeded: every run tries the same inputs.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.runs import write_run

from sdkd_plugin.config import load_config
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine import checkpoint
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.runs.read import read_runs
from sdkd_plugin.sweep.jobs import read_sweep
from sdkd_plugin.weights import load_weights

SECONDS = 30.0  # for one input: far more than any takes, far less than what hangs
CONFIG = {
    "DATASET": {"TYPE": "digits", "SUBSET": 0.5, "MEAN": [0.5, 0.5, 0.5]},
    "DISTILLER": {"TYPE": "SDKD", "TEACHER": "resnet14", "STUDENT": "resnet8"},
    "SOLVER": {"EPOCHS": 12, "LR": 0.05, "LR_DECAY_STAGES": [150, 180, 210]},
    "SDKD": {"STAGES": [3], "LOSS": {"FEAT_WEIGHT": 0.5}},
}
SWEEP = {
    "methods": ["vanilla", "kd"],
    "pairs": ["res56_res20"],
    "seeds": [0, 1],
    "overrides": {"SOLVER.EPOCHS": 12},
    "variants": {"kd": {"cold": {"KD.TEMPERATURE": 1.0}}},
    "teachers": {"resnet56": "teacher.pth"},
}


def tier(inputs: int) -> settings:
    """So many inputs, the same in each run."""
    return settings(
        max_examples=inputs,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


strange = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**62, 2**64, -1, 10**400, 0, 1e308]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["..", "/etc", "a\nb", "\x00", "\x1b[2J", "nan", "=1+1", "\ud800", "9" * 500]),
)
trees = st.recursive(
    strange,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
# where in a file, and what happens there
edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["flip", "cut", "drop", "insert", "repeat"]),
        st.binary(max_size=8),
    ),
    min_size=1,
    max_size=3,
)


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value in a tree, inner ones too."""
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(tree, dict):
        children = tree.items()
    elif isinstance(tree, list):
        children = enumerate(tree)
    return [path, *(place for key, v in children for place in places(v, (*path, key)))]


def changed(tree: Any, where: float, value: Any) -> Any:
    """A copy of a json tree with another value at one place."""
    tree = json.loads(json.dumps(tree))
    found = places(tree)
    path = found[int(where * len(found))]
    if not path:
        return value
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


def damaged(content: bytes, todo: list[tuple[float, str, bytes]]) -> bytes:
    for where, kind, piece in todo:
        at = int(where * len(content))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "drop":
            content = content[:at] + content[at + 1 + len(piece) :]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        else:
            content = content[:at] + content[at : at + 64] * 2 + content[at + 64 :]
    return content


class Tally:
    """Reads inputs and counts how they ended."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()

    def read(self, read: Callable[[], object]) -> None:
        began = time.monotonic()
        try:
            read()
        except UserError as error:
            assert str(error).strip()
            self.ends["refused"] += 1
        else:
            self.ends["read"] += 1
        took = time.monotonic() - began
        assert took < SECONDS, f"it took {took:.1f} s"

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {end}" for end, number in sorted(self.ends.items()))
        return f"{self.ends.total()} inputs: {counts}"


@pytest.fixture
def tally(record_property, request):
    counted = Tally()
    yield counted
    record_property("fuzz", f"{request.node.name}: {counted}")
    assert counted.ends["refused"], "not one input was bad: the fuzzing tries nothing"
    assert counted.ends["read"], "not one input was read: the fuzzing only hits the front door"


def write_yaml(path: Path, tree: Any) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


@pytest.mark.slow
def test_config_files(tmp_path, tally):
    path = tmp_path / "config.yaml"
    fuzz_yaml(path, CONFIG, lambda: load_config(path), tally, inputs=1200)
    assert tally.ends.total() >= 2400


@pytest.mark.slow
def test_sweep_files(tmp_path, tally, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": build_model("resnet56", 100).state_dict()}, "teacher.pth")
    path = Path("sweep.yaml")
    fuzz_yaml(path, SWEEP, lambda: read_sweep(path), tally, inputs=400)
    assert tally.ends.total() >= 800


def fuzz_yaml(path: Path, tree: Any, read: Callable[[], object], tally: Tally, inputs: int) -> None:
    """Reads a good file, then so many with a strange value, then so many with damaged bytes."""
    write_yaml(path, tree)
    read()
    whole = path.read_bytes()

    @tier(inputs)
    @given(st.floats(0, 1, exclude_max=True), trees)
    def values(where: float, value: Any) -> None:
        write_yaml(path, changed(tree, where, value))
        tally.read(read)

    @tier(inputs)
    @given(edits)
    def bytes_(todo: list) -> None:
        path.write_bytes(damaged(whole, todo))
        tally.read(read)

    values()
    bytes_()


@pytest.mark.slow
def test_npz_files(tmp_path, tally):
    path = tmp_path / "data.npz"
    images = np.zeros((6, 8, 8, 3), np.uint8)
    labels = np.array([0, 1, 2] * 2)
    good = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    cfg = load_config(None, ["DATASET.TYPE", "npz", "DATASET.ROOT", str(path)])
    np.savez(path, **good)
    load_dataset(cfg)
    whole = path.read_bytes()

    @tier(1000)
    @given(edits)
    def bytes_(todo: list) -> None:
        path.write_bytes(damaged(whole, todo))
        tally.read(lambda: load_dataset(cfg))

    @tier(300)
    @given(
        st.sampled_from(sorted(good)),
        st.sampled_from(["u1", "u4", "i8", "f4", "c8", "U3", "M8[s]", "?"]),
        st.lists(st.integers(0, 7), max_size=5),
        st.integers(-(2**31), 2**31),
    )
    def arrays(key: str, dtype: str, shape: list[int], value: int) -> None:
        array = np.full(shape, value % 2**31).astype(np.int64).astype(dtype, casting="unsafe")
        np.savez(path, **{**good, key: array})
        tally.read(lambda: load_dataset(cfg))

    bytes_()
    arrays()
    assert tally.ends.total() >= 1300


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_checkpoints(tmp_path, tally):
    path = tmp_path / "student_latest"
    model = build_model("resnet8", 10)
    checkpoint.save({"model": model.state_dict()}, path)
    load_weights(model, path, "resnet8")
    whole = path.read_bytes()
    state = {key: value.clone() for key, value in model.state_dict().items()}

    @tier(1500)
    @given(edits)
    def bytes_(todo: list) -> None:
        path.write_bytes(damaged(whole, todo))
        tally.read(lambda: load_weights(model, path, "resnet8"))
        for key, value in model.state_dict().items():
            assert torch.equal(value, state[key]), "what is believed is what was saved"

    bytes_()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["result.json", "identity.json"])
def test_run_folders(name, tmp_path, tally):
    folder = write_run(tmp_path, "KD", 0, [60.0, 70.0])
    assert len(read_runs([tmp_path])[0]) == 1
    file = folder / name
    whole = file.read_bytes()
    tree = json.loads(whole)

    def read() -> None:
        runs, rejected = read_runs([tmp_path])
        if not runs:
            raise UserError(rejected[0].reason)

    @tier(400)
    @given(st.floats(0, 1, exclude_max=True), trees)
    def values(where: float, value: Any) -> None:
        file.write_text(json.dumps(changed(tree, where, value)))
        tally.read(read)

    @tier(400)
    @given(edits)
    def bytes_(todo: list) -> None:
        file.write_bytes(damaged(whole, todo))
        tally.read(read)

    values()
    bytes_()

"""Checkpoints: the old one survives every failure, the one before is kept."""

import errno
import os
from pathlib import Path

import pytest
import torch
from support.faults import names, raising
from support.tiny import assert_bits_equal

from sdkd_plugin import weights
from sdkd_plugin.engine import checkpoint
from sdkd_plugin.errors import UserError

STATE = {
    "model": {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)},
    "history": [{"epoch": 1, "loss": 0.1}],
    "x": None,
}


def test_what_is_saved_is_what_is_loaded(tmp_path):
    checkpoint.save(STATE, tmp_path / "latest")
    assert_bits_equal(weights.load(tmp_path / "latest"), STATE)
    assert names(tmp_path) == ["latest"]


@pytest.mark.parametrize("place", ["os.fsync", "os.replace", "torch.save"])
def test_a_failing_write_leaves_the_old_file_and_no_temporary_one(place, tmp_path, monkeypatch):
    path = tmp_path / "latest"
    checkpoint.save(STATE, path)
    module, function = place.split(".")
    monkeypatch.setattr(
        {"os": os, "torch": torch}[module],
        function,
        raising(OSError(errno.ENOSPC, "No space left on device")),
    )
    with pytest.raises(
        UserError,
        match=r"latest cannot be written: \[Errno 28\] No space left on device; what was there",
    ):
        checkpoint.save({"model": {}}, path, keep_previous=place != "os.replace")
    monkeypatch.undo()
    assert names(tmp_path) == ["latest"]
    assert_bits_equal(weights.load(path), STATE)


def test_torchs_own_name_for_a_full_disk_is_translated(tmp_path, monkeypatch):
    def save(state, file):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            text = "[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"
            raise RuntimeError(text)  # noqa: B904, as torch

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(STATE, tmp_path / "latest")


def test_keep_previous_keeps_exactly_one(tmp_path):
    for number in range(3):
        checkpoint.save({"number": number}, tmp_path / "latest", keep_previous=True)
    assert names(tmp_path) == ["latest", "latest.previous"]
    assert weights.load(tmp_path / "latest") == {"number": 2}
    assert weights.load(tmp_path / "latest.previous") == {"number": 1}


def accept(state: dict, path: Path) -> None:
    pass


def test_load_newest_takes_the_newest_good_file(tmp_path):
    path = tmp_path / "latest"
    assert checkpoint.load_newest(path, accept) is None
    for number in range(2):
        checkpoint.save({"number": number}, path, keep_previous=True)
    assert checkpoint.load_newest(path, accept) == {"number": 1}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(
        UserWarning, match="latest cannot be read.*; going back to .*latest.previous"
    ):
        assert checkpoint.load_newest(path, accept) == {"number": 0}
    assert names(tmp_path) == ["latest"] and weights.load(path) == {"number": 0}, (
        "the good file takes the damaged one's place"
    )


def test_load_newest_tells_the_newest_files_fault_if_none_is_good(tmp_path):
    path = tmp_path / "latest"
    for number in range(2):
        checkpoint.save({"number": number}, path, keep_previous=True)
    with pytest.raises(UserError, match="not 1"):
        checkpoint.load_newest(
            path, lambda state, path: raising(UserError(f"not {state['number']}"))()
        )
    assert names(tmp_path) == ["latest", "latest.previous"]

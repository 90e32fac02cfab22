"""Checkpoints: the old one survives every failure, the one before is kept."""

import errno
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from support.faults import names, raising
from support.tiny import assert_bits_equal

from sdkd_plugin import weights
from sdkd_plugin.engine import checkpoint
from sdkd_plugin.errors import UserError
from sdkd_plugin.signals import Interrupted

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


def test_a_signal_that_torch_hides_is_no_failed_write(tmp_path, monkeypatch):
    """Its zip writer raises of its own while the signal's exception passes through it."""

    def save(state, file):
        try:
            raise Interrupted(signal.SIGTERM)
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672]")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(Interrupted):
        checkpoint.save(STATE, tmp_path / "latest")
    assert names(tmp_path) == []


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


@pytest.mark.parametrize("signed", [True, False], ids=["ours", "foreign"])
def test_no_flipped_bit_changes_what_is_loaded(signed, tmp_path):
    """200 places all over the file: local headers, tensors, pickle, directory, its end."""
    path = tmp_path / "file"
    checkpoint.save(STATE, path) if signed else torch.save(STATE, path)
    whole = path.read_bytes()
    digest = weights.digest(STATE)
    generator = random.Random(0)
    refused = 0
    for place in generator.sample(range(len(whole)), 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            found = weights.load(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert weights.digest(found) == digest, f"byte {place} of {len(whole)}"
    # padding and time stamps are the rest
    assert refused > 80


def test_a_digest_sees_what_no_checksum_does(tmp_path):
    """A file that was opened, changed and saved again has checksums that fit."""
    path = tmp_path / "file"
    checkpoint.save({"model": {"a": torch.ones(3)}}, path)
    state = torch.load(path, weights_only=True)
    state["model"]["a"][1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    torch.save(state, path)
    with pytest.raises(UserError, match="is damaged: its content and its digest differ"):
        weights.load(path)


def test_the_digest_is_of_content_alone():
    one = {"a": torch.arange(6.0).reshape(2, 3), "b": [1, None, {"c": (2.0, "x")}]}
    same = {"b": [1, None, {"c": (2.0, "x")}], "a": one["a"].t().contiguous().t()}
    assert weights.digest(one) == weights.digest(same)
    others = [
        {**one, "a": one["a"].reshape(3, 2)},
        {**one, "a": one["a"].double()},
        {**one, "a": one["a"] + torch.tensor([0, 0, 1e-6])},
        {**one, "b": [1.0, None, {"c": (2.0, "x")}]},
        {**one, "b": [1, None, {"c": [2.0, "x"]}]},
        {**one, "b": [1, [None], {"c": (2.0, "x")}]},
        {"a": one["a"], "B": one["b"]},
        {"a": torch.zeros(0), "b": one["b"]},
        {"a": torch.zeros(0, 2), "b": one["b"]},
        {"a": -torch.zeros(1), "b": one["b"]},
        {"a": torch.zeros(1), "b": one["b"]},
        {"a": torch.zeros(1, dtype=torch.int32), "b": one["b"]},  # the same bytes
    ]
    digests = {weights.digest(one), *map(weights.digest, others)}
    assert len(digests) == 1 + len(others)

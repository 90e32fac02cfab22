"""Files: never half written, never trusted."""

import errno
import hashlib
import os
import pickle
import random
import stat
from pathlib import Path

import pytest
import torch
from tiny import assert_bits_equal, state_copy

from sdkd_plugin.engine import checkpoint
from sdkd_plugin.engine.randomness import torch_seeded
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

STATE = {"model": {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)}, "history": [{"epoch": 1, "loss": 0.1}], "x": None}


def raising(error: BaseException):
    def fail(*arguments, **options):
        raise error

    return fail


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def resnet8(num_classes: int = 10, seed: int = 0) -> torch.nn.Module:
    with torch_seeded(seed, "test"):
        return build_model("resnet8", num_classes)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    checkpoint.save(STATE, tmp_path / "latest")
    assert_bits_equal(checkpoint.load(tmp_path / "latest"), STATE)
    assert names(tmp_path) == ["latest"]


def test_a_written_file_is_as_readable_as_any_other(tmp_path):
    old = os.umask(0o027)
    try:
        checkpoint.write_text(tmp_path / "file", "text")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_the_bytes_are_on_disk_before_the_name_is_theirs(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append(os.fstat(handle).st_size), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b)))
    checkpoint.write_text(tmp_path / "file", "four")
    assert order == [4, "file"]


@pytest.mark.parametrize("place", ["os.fsync", "os.replace", "os.chmod", "torch.save"])
def test_a_failing_write_leaves_the_old_file_and_no_temporary_one(place, tmp_path, monkeypatch):
    path = tmp_path / "latest"
    checkpoint.save(STATE, path)
    module, function = place.split(".")
    monkeypatch.setattr({"os": os, "torch": torch}[module], function, raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match=r"latest cannot be written: \[Errno 28\] No space left on device; what was there"):
        checkpoint.save({"model": {}}, path, keep_previous=place != "os.replace")
    monkeypatch.undo()
    assert names(tmp_path) == ["latest"]
    assert_bits_equal(checkpoint.load(path), STATE)


def test_torchs_own_name_for_a_full_disk_is_translated(tmp_path, monkeypatch):
    def save(state, file):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")  # noqa: B904, as torch

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(STATE, tmp_path / "latest")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError("cannot pickle")])
def test_other_errors_pass_and_leave_no_temporary_file(error, tmp_path):
    checkpoint.write_text(tmp_path / "file", "old")
    with pytest.raises(type(error)):
        checkpoint.write_atomic(tmp_path / "file", raising(error))
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"


def test_keep_previous_keeps_exactly_one(tmp_path):
    for number in range(3):
        checkpoint.save({"number": number}, tmp_path / "latest", keep_previous=True)
    assert names(tmp_path) == ["latest", "latest.previous"]
    assert checkpoint.load(tmp_path / "latest") == {"number": 2}
    assert checkpoint.load(tmp_path / "latest.previous") == {"number": 1}


def accept(state: dict, path: Path) -> None:
    pass


def test_load_newest_takes_the_newest_good_file(tmp_path):
    path = tmp_path / "latest"
    assert checkpoint.load_newest(path, accept) is None
    for number in range(2):
        checkpoint.save({"number": number}, path, keep_previous=True)
    assert checkpoint.load_newest(path, accept) == {"number": 1}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="latest cannot be read.*; going back to .*latest.previous"):
        assert checkpoint.load_newest(path, accept) == {"number": 0}
    assert names(tmp_path) == ["latest"] and checkpoint.load(path) == {"number": 0}, "the good file takes the damaged one's place"


def test_load_newest_tells_the_newest_files_fault_if_none_is_good(tmp_path):
    path = tmp_path / "latest"
    for number in range(2):
        checkpoint.save({"number": number}, path, keep_previous=True)
    with pytest.raises(UserError, match="not 1"):
        checkpoint.load_newest(path, lambda state, path: raising(UserError(f"not {state['number']}"))())
    assert names(tmp_path) == ["latest", "latest.previous"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read, it is truncated or no torch file"),
        (b"SOLVER:\n  LR: 0.1\n", "is refused: it is no torch file"),
        (pickle.dumps({"model": 1}), "is refused: it is no torch file"),
        (b"PK\x03\x04" + bytes(100), "cannot be read, it is truncated"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content, message, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=f"checkpoint .*file {message}") as caught:
        checkpoint.load(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="nix does not exist"):
        checkpoint.load(tmp_path / "nix")
    with pytest.raises(UserError, match="cannot be read.*Is a directory"):
        checkpoint.load(tmp_path)


def test_what_is_no_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "file")
    with pytest.raises(UserError, match="holds list; wanted {'model': state_dict}"):
        checkpoint.load(tmp_path / "file")


class Malicious:
    """Unpickling this runs a shell command."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_is_not_run(legacy, tmp_path):
    marker, path = tmp_path / "was run", tmp_path / "teacher.pth"
    state = {"model": resnet8().state_dict(), "x": Malicious(str(marker).replace(" ", r"\ "))}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    torch.load(path, weights_only=False)
    assert marker.exists(), "the attack itself must work"
    marker.unlink()
    with pytest.raises(UserError, match="refused: .* could run code when loaded; save it again"):
        checkpoint.load(path)
    with pytest.raises(UserError, match="could run code"):
        checkpoint.load_weights(resnet8(), path, "resnet8")
    assert not marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damage_of_every_kind_is_a_users_error(legacy, tmp_path):
    """Cut anywhere, or with bytes overwritten near either end, where the pickle and the directory stand."""
    path, rng, refused = tmp_path / "file", random.Random(0), 0
    torch.save(STATE, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for number in range(200):
        damaged = bytearray(whole)
        if number % 2:
            del damaged[rng.randrange(len(whole)) :]
        else:
            for _ in range(rng.randrange(1, 8)):
                damaged[rng.choice([1, -1]) * rng.randrange(1, 500)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            checkpoint.load(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert number % 2 == 0, f"cut to {len(damaged)} of {len(whole)} bytes and still accepted"
    assert refused > 130


def test_weights_load_from_the_formats_in_use(tmp_path):
    trained = resnet8(seed=1)
    for prefix in ("", "module."):
        state = {"model": {prefix + key: value for key, value in trained.state_dict().items()}, "epoch": 240, "best_acc": 1.0}
        torch.save(state, tmp_path / "teacher.pth")
        model = resnet8()
        assert not torch.equal(model.state_dict()["conv1.weight"], trained.state_dict()["conv1.weight"])
        checkpoint.load_weights(model, tmp_path / "teacher.pth", "resnet8")
        assert_bits_equal(state_copy(model), state_copy(trained))


def spoiled(**changes) -> dict:
    return {"model": {**resnet8().state_dict(), **{key.replace("__", "."): value for key, value in changes.items()}}}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"state_dict": {}, "epoch": 3}, r"has the entries \['epoch', 'state_dict'\]; wanted 'model'"),
        ({"model": 3}, "wanted 'model', a state_dict"),
        (spoiled(fc__bias=3), "'model' holds something else than named, dense tensors"),
        ({"model": {1: torch.zeros(1)}}, "'model' holds something else than named, dense tensors"),
        (spoiled(fc__weight=torch.zeros(10, 64).to_sparse()), "'model' holds something else than named, dense tensors"),
        (spoiled(fc__bias=torch.tensor(1.0)), r"not for model 'resnet8'.*of another shape \['fc.bias'\]"),
        (spoiled(conv1__weight=torch.zeros(8, 3, 3, 3)), r"not for model 'resnet8'.*of another shape \['conv1.weight'\]"),
        (spoiled(other=torch.zeros(1)), r"not for model 'resnet8'.*unknown \['other'\]"),
        ({"model": {}}, r"not for model 'resnet8': missing \['bn1.bias'\]"),
        ({"model": build_model("resnet14", 10).state_dict()}, "not for model 'resnet8'.*unknown"),
        ({"model": build_model("resnet8x4", 10).state_dict()}, "not for model 'resnet8'"),
        ({"model": build_model("resnet8", 100).state_dict()}, "was trained for 100 classes, the data set has 10"),
    ],
)
def test_weights_of_something_else_are_refused_and_the_model_stays(state, message, tmp_path):
    torch.save(state, tmp_path / "teacher.pth")
    model = resnet8()
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.load_weights(model, tmp_path / "teacher.pth", "resnet8")
    assert str(tmp_path / "teacher.pth") in str(caught.value) and "\n" not in str(caught.value)
    assert_bits_equal(state_copy(model), state_copy(resnet8()))


def test_sha256_is_of_the_content(tmp_path):
    for name, content in (("a", b"1" * 10**6), ("b", b"1" * 10**6), ("c", b"1" * 10**6 + b"2")):
        (tmp_path / name).write_bytes(content)
    assert checkpoint.sha256(tmp_path / "a") == checkpoint.sha256(tmp_path / "b") == hashlib.sha256(b"1" * 10**6).hexdigest()[:16]
    assert checkpoint.sha256(tmp_path / "c") != checkpoint.sha256(tmp_path / "a")

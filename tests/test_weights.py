"""Networks from files: never trusted."""

import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from support.tiny import assert_bits_equal, state_copy

from sdkd_plugin import weights
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

STATE = {
    "model": {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)},
    "history": [{"epoch": 1, "loss": 0.1}],
    "x": None,
}


def resnet8(num_classes: int = 10, seed: int = 0) -> torch.nn.Module:
    with torch_seeded(seed, "test"):
        return build_model("resnet8", num_classes)


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
        weights.load(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="nix does not exist"):
        weights.load(tmp_path / "nix")
    with pytest.raises(UserError, match="cannot be read.*Is a directory"):
        weights.load(tmp_path)


def test_what_is_no_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "file")
    with pytest.raises(UserError, match="holds list; wanted {'model': state_dict}"):
        weights.load(tmp_path / "file")


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
        weights.load(path)
    with pytest.raises(UserError, match="could run code"):
        weights.load_weights(resnet8(), path, "resnet8")
    assert not marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damage_of_every_kind_is_a_users_error(legacy, tmp_path):
    """Cut anywhere, or overwritten near either end, where the pickle and the directory stand."""
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
            weights.load(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert number % 2 == 0, (
                f"cut to {len(damaged)} of {len(whole)} bytes and still accepted"
            )
    assert refused > 130


def test_weights_load_from_the_formats_in_use(tmp_path):
    trained = resnet8(seed=1)
    for prefix in ("", "module."):
        state = {
            "model": {prefix + key: value for key, value in trained.state_dict().items()},
            "epoch": 240,
            "best_acc": 1.0,
        }
        torch.save(state, tmp_path / "teacher.pth")
        model = resnet8()
        assert not torch.equal(
            model.state_dict()["conv1.weight"], trained.state_dict()["conv1.weight"]
        )
        weights.load_weights(model, tmp_path / "teacher.pth", "resnet8")
        assert_bits_equal(state_copy(model), state_copy(trained))


def spoiled(**changes) -> dict:
    return {
        "model": {
            **resnet8().state_dict(),
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    }


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"state_dict": {}, "epoch": 3},
            r"has the entries \['epoch', 'state_dict'\]; wanted 'model'",
        ),
        ({"model": 3}, "wanted 'model', a state_dict"),
        (spoiled(fc__bias=3), "'model' holds something else than named, dense tensors"),
        ({"model": {1: torch.zeros(1)}}, "'model' holds something else than named, dense tensors"),
        (
            spoiled(fc__weight=torch.zeros(10, 64).to_sparse()),
            "'model' holds something else than named, dense tensors",
        ),
        (
            spoiled(fc__bias=torch.tensor(1.0)),
            r"not for model 'resnet8'.*of another shape \['fc.bias'\]",
        ),
        (
            spoiled(conv1__weight=torch.zeros(8, 3, 3, 3)),
            r"not for model 'resnet8'.*of another shape \['conv1.weight'\]",
        ),
        (spoiled(other=torch.zeros(1)), r"not for model 'resnet8'.*unknown \['other'\]"),
        ({"model": {}}, r"not for model 'resnet8': missing \['bn1.bias'\]"),
        ({"model": build_model("resnet14", 10).state_dict()}, "not for model 'resnet8'.*unknown"),
        ({"model": build_model("resnet8x4", 10).state_dict()}, "not for model 'resnet8'"),
        (
            {"model": build_model("resnet8", 100).state_dict()},
            "was trained for 100 classes, the data set has 10",
        ),
    ],
)
def test_weights_of_something_else_are_refused_and_the_model_stays(state, message, tmp_path):
    torch.save(state, tmp_path / "teacher.pth")
    model = resnet8()
    with pytest.raises(UserError, match=message) as caught:
        weights.load_weights(model, tmp_path / "teacher.pth", "resnet8")
    assert str(tmp_path / "teacher.pth") in str(caught.value) and "\n" not in str(caught.value)
    assert_bits_equal(state_copy(model), state_copy(resnet8()))

"""Weights in the forms that others save them in: taken where one is meant, refused where not."""

import pytest
import torch

from sdkd_plugin.errors import UserError
from sdkd_plugin.forms import find_state_dict

WEIGHTS = {"conv.weight": torch.ones(2), "conv.bias": torch.zeros(1)}
PARALLEL = {f"module.{key}": value for key, value in WEIGHTS.items()}


@pytest.mark.parametrize("weights", [WEIGHTS, PARALLEL], ids=["plain", "DataParallel"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"model": weights, "epoch": 240, "best_acc": 1.0},
        lambda weights: {"state_dict": weights, "optimizer": {}},
        lambda weights: {"net": weights, "acc": 95.0, "epoch": 3},
        lambda weights: {"model": "resnet8", "state_dict": weights},
    ],
)
def test_every_form_gives_the_same_weights(wrap, weights):
    found = find_state_dict(wrap(weights), "file")
    assert found.keys() == WEIGHTS.keys()
    assert all(found[key] is value for key, value in zip(WEIGHTS, weights.values(), strict=True))


def test_a_module_of_that_name_stays():
    weights = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert find_state_dict({"model": weights}, "file") == weights


@pytest.mark.parametrize(
    "state, message",
    [
        ({"model": WEIGHTS, "net": WEIGHTS}, "several networks: the entries model and net; save"),
        ({"model": WEIGHTS, "state_dict": {}}, "the entries model and state_dict"),
        ({"model": 3}, r"has the entries \['model'\]; wanted a state_dict, alone or as one of"),
        ({"weights": WEIGHTS}, "wanted a state_dict, alone or as one of model, state_dict, net"),
        ({**WEIGHTS, "epoch": 3}, "wanted a state_dict, alone"),
        ({}, r"has the entries \[\]"),
    ],
)
def test_what_is_ambiguous_or_no_network_is_refused(state, message):
    with pytest.raises(UserError, match=f"checkpoint file .*{message}") as told:
        find_state_dict(state, "file")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("latest", "student_latest"),
        ("latest.previous", "student_latest"),
        ("best", "student_best"),
        ("epoch_40", "student_40"),
        ("renamed", "student_latest"),
    ],
)
def test_what_a_run_resumes_from_names_the_student(name, wanted, tmp_path):
    for student in ("student_latest", "student_best", "student_40"):
        (tmp_path / student).touch()
    state = {"epoch": 3, "model": WEIGHTS, "optimizer": {}, "history": [], "identity": {}}
    with pytest.raises(UserError, match=f"{name} is what --resume goes on from.* use {wanted} of"):
        find_state_dict(state, tmp_path / name)

"""Three SGD steps of mdistiller's own distillers, in float64: ours end at the same numbers."""

import pytest
import torch
from support.oracles import fill, formula, load

from sdkd_plugin.config import load_config
from sdkd_plugin.models import build_model
from sdkd_plugin.registry import METHODS

ORACLE = load("steps")["cases"]  # "<method> <teacher>/<student>"
METHOD_NAMES = {entry.name for entry in METHODS}
KEYS = [key for key in ORACLE if key.split()[0] in METHOD_NAMES]


def test_the_oracle_covers_the_plain_methods_here():
    assert {key.split()[0] for key in KEYS} >= {"NONE", "KD", "DKD"}


@pytest.mark.parametrize("key", KEYS)
def test_three_steps_equal_mdistillers(key):
    name, pair = key.split()
    teacher_name, student_name = pair.split("/")
    student = fill(build_model(student_name, 100), "student.")
    method = METHODS[name].build
    teacher = (
        fill(build_model(teacher_name, 100), "teacher.") if method.teacher_from != "none" else None
    )
    distiller = method(student, teacher, load_config(None, ["DISTILLER.TYPE", name])).double()
    optimizer = torch.optim.SGD(
        distiller.get_learnable_parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4
    )
    distiller.train()
    for step, expected in enumerate(ORACLE[key]["steps"]):
        image = formula((16, 3, 32, 32), f"image{step}")
        target = torch.floor(50 * (formula((16,), f"label{step}") + 1)).long()
        _, losses = distiller(image=image, target=target, epoch=1)
        assert {k: v.item() for k, v in losses.items()} == pytest.approx(expected, rel=1e-8)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    if not student_name.startswith(
        "wrn"
    ):  # mdistiller updates three of WRN's running statistics twice a step
        distiller.eval()
        with torch.no_grad():
            logits = distiller(image=formula((2, 3, 32, 32), "probe"))[:, :10]
        assert logits.flatten().tolist() == pytest.approx(sum(ORACLE[key]["logits"], []), abs=1e-8)

"""Which methods several processes can train: their loss on a batch is the mean of those on its
parts, and so are the gradients. The others say so (`needs_whole_batch`, `whole_batch_if`).
"""

from contextlib import nullcontext

import pytest
import torch
from cases import CASES, Case
from support.loop import Loop, batch, config, make_loop
from torch import Tensor, nn

from sdkd_plugin.config import whole_batch_reason
from sdkd_plugin.distillers import ofd

SHAREABLE = [case for case in CASES if not whole_batch_reason(config(case))]
PARTS = (slice(0, 5), slice(5, 8))  # of unequal length, as the last batch's are


def gradients(loop: Loop, data: dict[str, Tensor], parts: tuple[slice, ...]) -> dict[str, Tensor]:
    """By parameter, of the parts' losses, each times its share of the batch."""
    whole = len(data["target"])
    for part in parts:
        own = {name: value[part] for name, value in data.items()}
        _, losses = loop.distiller(**own, epoch=1, progress=0.0)
        (sum(losses.values()) * len(own["target"]) / whole).backward()
    named = {
        name: parameter.grad
        for name, parameter in loop.distiller.named_parameters()
        if parameter.grad is not None
    }
    loop.optimizer.zero_grad(set_to_none=True)
    return named


def entered(case: Case, number: int) -> Loop:
    """The case's loop in its phase of this number, its norms frozen: they see the part."""
    loop = make_loop(case)
    for phase in loop.phases[: number + 1]:
        loop.enter(phase)
    loop.distiller.double()
    for module in loop.distiller.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    return loop


@pytest.mark.parametrize("case", SHAREABLE, ids=lambda case: case.name)
def test_the_gradient_of_a_batch_is_the_mean_of_its_parts(case: Case, monkeypatch):
    # OFD's frozen teacher has the batch's statistics, too
    monkeypatch.setattr(ofd, "batch_statistics", nullcontext)
    for number in range(len(make_loop(case).phases)):
        loop = entered(case, number)
        data = batch(loop.distiller, 0)
        data["image"] = data["image"].double()
        whole = gradients(loop, data, (slice(0, 8),))
        shared = gradients(loop, data, PARTS)
        assert whole.keys() == shared.keys() and whole
        for name, wanted in whole.items():
            torch.testing.assert_close(shared[name], wanted, rtol=1e-6, atol=1e-9, msg=name)


def test_only_sdkds_control_with_another_images_features_needs_the_whole_batch():
    reasons = {
        features: whole_batch_reason(config(Case("SDKD", {"SDKD.TEACHER_FEATURES": features})))
        for features in ("own", "zeros", "shuffled")
    }
    assert reasons == {"own": "", "zeros": "", "shuffled": "SDKD.TEACHER_FEATURES shuffled"}


def test_that_control_does_relate_images():
    loop = entered(Case("SDKD", {"SDKD.TEACHER_FEATURES": "shuffled"}), 0)
    assert not is_mean_of_parts(loop)


def test_the_comparison_sees_a_method_that_relates_images():
    assert not is_mean_of_parts(entered(Case("RKD"), 0))


def is_mean_of_parts(loop: Loop) -> bool:
    data = batch(loop.distiller, 0)
    data["image"] = data["image"].double()
    whole = gradients(loop, data, (slice(0, 8),))
    shared = gradients(loop, data, PARTS)
    return all(torch.allclose(shared[name], whole[name], rtol=1e-3) for name in whole)

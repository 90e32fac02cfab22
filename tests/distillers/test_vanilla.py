"""NONE against a plain training step written out."""

import torch
import torch.nn.functional as F

from sdkd_plugin.distillers.vanilla import Vanilla
from sdkd_plugin.models import build_model


def test_loss_and_gradients_are_those_of_plain_cross_entropy():
    torch.manual_seed(0)
    student = build_model("resnet8", 10)
    image, target = torch.randn(4, 3, 16, 16), torch.tensor([3, 0, 9, 3])
    distiller = Vanilla(student, None, None).train()
    logits, losses = distiller(image=image, target=target)
    assert list(losses) == ["loss_ce"]
    assert torch.equal(logits, student(image)[0])
    gradients = torch.autograd.grad(losses["loss_ce"], list(student.parameters()))
    log_p = logits - logits.logsumexp(1, keepdim=True)
    torch.testing.assert_close(
        losses["loss_ce"], -(log_p[0, 3] + log_p[1, 0] + log_p[2, 9] + log_p[3, 3]) / 4
    )
    expected = torch.autograd.grad(
        F.cross_entropy(student(image)[0], target), list(student.parameters())
    )
    for ours, plain in zip(gradients, expected, strict=True):
        assert torch.equal(ours, plain)


def test_nothing_is_added_to_the_student():
    student = build_model("resnet8", 10)
    distiller = Vanilla(student, None, None)
    assert Vanilla.teacher_from == "none"  # else the engine would ask for a checkpoint
    assert distiller.get_extra_parameters() == 0
    assert set(distiller.state_dict()) == {f"student.{name}" for name in student.state_dict()}

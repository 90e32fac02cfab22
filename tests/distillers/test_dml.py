"""DML: both losses, constant targets, and one summed backward pass that equals two trainings."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import Fixed
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.distillers.dml import DML, mutual_losses
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

STUDENT, PEER = 4 * formula((8, 10), "student"), 4 * formula((8, 10), "peer")
TARGET = torch.arange(8)


def config(*words: str):
    return load_config(None, ["DISTILLER.TYPE", "DML", *words])


def slow_kl(goal: Tensor, logits: Tensor, tau: float) -> float:
    """tau^2 KL(goal || logits) in plain Python, one sample and class at a time."""
    total = 0.0
    for z_goal, z in zip(goal.tolist(), logits.tolist(), strict=True):
        p, q = ([math.exp(v / tau) for v in row] for row in (z_goal, z))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return tau**2 * total / len(goal)


def test_hand_computed():
    # peer (3/4, 1/4), student (1/2, 1/2)
    student, peer = mutual_losses(torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]]), 1.0)
    assert student.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    assert peer.item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_both_losses_equal_an_independent_version(tau):
    losses = [loss.item() for loss in mutual_losses(STUDENT, PEER, tau)]
    assert losses == pytest.approx(
        [slow_kl(PEER, STUDENT, tau), slow_kl(STUDENT, PEER, tau)], rel=1e-10
    )


def test_equal_logits_give_zero_with_zero_gradient():
    student, peer = STUDENT.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    losses = mutual_losses(student, peer, 1.0)
    assert [loss.item() for loss in losses] == [0, 0]
    assert all(
        gradient.abs().max() < 1e-15
        for gradient in torch.autograd.grad(sum(losses), (student, peer))
    )


def test_each_loss_has_a_gradient_for_its_own_network_alone():
    student, peer = STUDENT.clone().requires_grad_(), PEER.clone().requires_grad_()
    for loss, own, other in zip(
        mutual_losses(student, peer, 1.0), (student, peer), (peer, student), strict=True
    ):
        mine, theirs = torch.autograd.grad(loss, (own, other), allow_unused=True)
        assert theirs is None
        torch.testing.assert_close(
            mine, (own.softmax(1) - other.softmax(1)).detach() / 8, rtol=1e-12, atol=1e-15
        )


def test_gradient_is_that_of_finite_differences():
    student, peer = (formula((3, 5), key).requires_grad_() for key in "sp")
    assert torch.autograd.gradcheck(lambda s: mutual_losses(s, peer, 2.0)[0], student)
    assert torch.autograd.gradcheck(lambda p: mutual_losses(student, p, 2.0)[1], peer)


def test_a_logit_gap_of_500_stays_finite_and_exact():
    student, peer = (
        torch.tensor([[500.0, 0.0]], requires_grad=True),
        torch.tensor([[0.0, 500.0]], requires_grad=True),
    )
    losses = mutual_losses(student, peer, 1.0)
    gradients = torch.autograd.grad(sum(losses), (student, peer))
    assert [loss.item() for loss in losses] == pytest.approx([500, 500], rel=1e-6)
    torch.testing.assert_close(torch.cat(gradients), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))


def test_the_distiller_weighs_and_sums_both_networks_losses():
    cfg = config("DML.CE_WEIGHT", "0.5", "DML.KD_WEIGHT", "2.0", "DML.TAU", "3.0")
    distiller = DML(Fixed(STUDENT), Fixed(PEER), cfg).train()
    logits, losses = distiller(image=torch.zeros(1), target=TARGET)
    assert torch.equal(logits, STUDENT)
    entropies = F.cross_entropy(STUDENT, TARGET) + F.cross_entropy(PEER, TARGET)
    assert losses["loss_ce"].item() == pytest.approx(0.5 * entropies.item(), rel=1e-12)
    divergences = slow_kl(PEER, STUDENT, 3.0) + slow_kl(STUDENT, PEER, 3.0)
    assert losses["loss_kd"].item() == pytest.approx(2 * divergences, rel=1e-10)


def test_one_backward_pass_of_the_sum_equals_two_trainings_side_by_side():
    def nets():
        with torch_seeded(0, "nets"):
            return build_model("resnet8", 10), build_model("resnet14", 10)

    distiller, pair = DML(*nets(), config("DML.PEER_LR_FACTOR", "0.2")).train(), nets()
    groups = [
        {**group, "lr": 0.1 * group.get("lr_factor", 1)}
        for group in distiller.get_parameter_groups(Phase("train", 1))
    ]
    together = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)
    settings = {"momentum": 0.9, "weight_decay": 5e-4}
    apart = [
        torch.optim.SGD(net.parameters(), lr=lr, **settings)
        for net, lr in zip(pair, (0.1, 0.02), strict=True)
    ]
    for step in range(2):
        image = formula((8, 3, 8, 8), f"image{step}").float()
        together.zero_grad()
        sum(distiller(image=image, target=TARGET)[1].values()).backward()
        together.step()
        logits = [net(image)[0] for net in pair]
        for own, other, optimizer in zip(logits, reversed(logits), apart, strict=True):
            optimizer.zero_grad()
            goal = other.detach().softmax(1)
            kl = F.kl_div(own.log_softmax(1), goal, reduction="batchmean")
            (F.cross_entropy(own, TARGET) + kl).backward()
        for optimizer in apart:
            optimizer.step()
    for net, alone in zip((distiller.student, distiller.teacher), pair, strict=True):
        for (name, value), other in zip(
            net.state_dict().items(), alone.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6, msg=name)


def test_the_peer_trains_and_rests_with_the_student():
    distiller = DML(build_model("resnet8", 10), build_model("resnet8", 10), config())
    for mode in (True, False, True):
        distiller.train(mode)
        assert all(module.training == mode for module in distiller.modules())
    assert all(p.requires_grad for p in distiller.teacher.parameters())


@pytest.mark.parametrize("key", ["TAU", "PEER_LR_FACTOR"])
def test_meaningless_settings_are_refused(key):
    with pytest.raises(UserError, match=f"DML.{key} is 0.0; allowed: above 0"):
        DML(Fixed(STUDENT), Fixed(PEER), config(f"DML.{key}", "0.0"))

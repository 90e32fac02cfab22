"""SRRL: both losses, the gradient through the teacher's frozen classifier, both connectors."""

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula
from torch import Tensor, nn

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.srrl import SRRL, Connector, srrl_losses
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

N, D, K = 4, 6, 5


def head(dtype: torch.dtype = torch.float64) -> nn.Linear:
    layer = nn.Linear(D, K).to(dtype).requires_grad_(False)
    layer.weight.copy_(formula((K, D), "weight"))
    layer.bias.copy_(formula((K,), "bias"))
    return layer


def build(*words: str, student: str = "resnet8", teacher: str = "resnet8x4") -> SRRL:
    with torch_seeded(0, "nets"):
        nets = build_model(student, 10), build_model(teacher, 10)
        return SRRL(*nets, load_config(None, ["DISTILLER.TYPE", "SRRL", *words])).train()


def test_hand_computed():
    h = nn.Linear(2, 1).requires_grad_(False)
    h.weight.copy_(torch.tensor([[1.0, 2.0]]))
    h.bias.fill_(0.5)
    # a - b = (1, -2): mean of squares 5/2; h(a) = 1 + 0 + 0.5, z_T = 3: squared 2.25
    matching, regression = srrl_losses(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0]]), h
    )
    assert (matching.item(), regression.item()) == (2.5, 2.25)


def test_both_losses_equal_an_independent_version():
    a, b, z = formula((N, D), "a"), formula((N, D), "b"), formula((N, K), "z")
    layer, matching, regression = head(), 0.0, 0.0
    for i in range(N):
        for j in range(D):
            matching += (a[i, j] - b[i, j]).item() ** 2 / (N * D)
        for k in range(K):
            logit = (
                sum(layer.weight[k, j].item() * a[i, j].item() for j in range(D))
                + layer.bias[k].item()
            )
            regression += (logit - z[i, k].item()) ** 2 / (N * K)
    assert [loss.item() for loss in srrl_losses(a, b, z, layer)] == pytest.approx(
        [matching, regression], rel=1e-10
    )


def test_the_teachers_own_features_give_zero_with_zero_gradient():
    b = formula((N, D), "b").requires_grad_()
    losses = srrl_losses(b, b.detach(), head()(b).detach(), head())
    assert [loss.item() for loss in losses] == [0, 0]
    assert torch.autograd.grad(sum(losses), b)[0].abs().max() == 0


def test_gradient_is_that_of_finite_differences_and_passes_through_the_frozen_classifier():
    a, b, z = formula((3, D), "a").requires_grad_(), formula((3, D), "b"), formula((3, K), "z")
    assert torch.autograd.gradcheck(lambda x: srrl_losses(x, b, z, head()), a)
    (gradient,) = torch.autograd.grad(srrl_losses(a, b, z, head())[1], a)
    torch.testing.assert_close(gradient, 2 / (3 * K) * (head()(a) - z).detach() @ head().weight)


def test_logits_of_500_and_constant_features_stay_finite():
    a = torch.ones(N, D, requires_grad=True)
    losses = srrl_losses(a, torch.ones(N, D), torch.full((N, K), 500.0), head(torch.float32))
    assert all(torch.isfinite(loss) for loss in losses)
    assert torch.isfinite(torch.autograd.grad(sum(losses), a)[0]).all()
    distiller = build()
    _, losses = distiller(image=torch.zeros(N, 3, 8, 8), target=torch.arange(N))
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in distiller.get_learnable_parameters())


def slow_connector(connector: Connector, x: Tensor) -> Tensor:
    """relu(BN(conv1x1)) in train mode on maps [N, C, H, W]."""
    conv, norm = connector.transfer[0], connector.transfer[1]
    y = torch.einsum("nchw,dc->ndhw", x, conv.weight[:, :, 0, 0])
    y = (y - y.mean((0, 2, 3), keepdim=True)) / (
        y.var((0, 2, 3), unbiased=False, keepdim=True) + norm.eps
    ).sqrt()
    return (y * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)


@pytest.mark.parametrize("kind", ["map", "pooled"])
@pytest.mark.parametrize("pair", ["resnet14/resnet8", "wrn_16_2/wrn_16_1"])
def test_one_step_equals_the_definition(kind, pair):
    teacher, student = pair.split("/")
    words = (
        "SRRL.CE_WEIGHT", "0.5",
        "SRRL.KD_WEIGHT", "0.7",
        "SRRL.TAU", "2.0",
        "SRRL.FM_WEIGHT", "3.0",
        "SRRL.SR_WEIGHT", "1.5",
    )  # fmt: skip
    distiller = build("SRRL.CONNECTOR", kind, *words, student=student, teacher=teacher).double()
    image, target = formula((N, 3, 8, 8), "image"), torch.arange(N)
    z_s, feats = distiller.student(image)
    z_t, goals = distiller.teacher(image)
    if kind == "map":
        a = slow_connector(distiller.connector, feats["head_in"]).mean((2, 3))
    else:
        a = slow_connector(distiller.connector, feats["pooled_feat"][:, :, None, None])[:, :, 0, 0]
    matching = (a - goals["head_in"].mean((2, 3))).square().mean()
    regression = (
        (F.linear(a, distiller.teacher.fc.weight, distiller.teacher.fc.bias) - z_t).square().mean()
    )
    p, q = (z_t / 2).softmax(1), (z_s / 2).softmax(1)
    kd = 4 * (p * (p / q).log()).sum() / N
    logits, losses = distiller(image=image, target=target)
    assert losses["loss_kd"].item() == pytest.approx(
        (3 * matching + 1.5 * regression + 0.7 * kd).item(), rel=1e-9
    )
    assert losses["loss_ce"].item() == pytest.approx(
        0.5 * F.cross_entropy(z_s, target).item(), rel=1e-12
    )
    assert torch.equal(logits, z_s)


def test_the_classifier_stays_and_the_student_learns_through_it():
    distiller = build("SRRL.FM_WEIGHT", "0.0", "SRRL.CE_WEIGHT", "0.0")
    _, losses = distiller(image=formula((N, 3, 8, 8), "image").float(), target=torch.arange(N))
    losses["loss_kd"].backward()
    assert all(p.grad is None for p in distiller.teacher.parameters())
    assert distiller.student.conv1.weight.grad.abs().max() > 0


def test_the_two_connectors_differ_and_start_as_the_authors_do():
    x = formula((N, 3, 4, 4), "x").float()
    with torch_seeded(0, "c"):
        connector = Connector(3, 400, "map")
    pooled = Connector(3, 400, "pooled")
    pooled.load_state_dict(connector.state_dict())
    assert connector(x).shape == pooled(x).shape == (N, 400)
    assert not torch.allclose(connector(x), pooled(x))
    assert connector.transfer[0].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.1)


def test_an_unknown_connector_is_refused():
    with pytest.raises(
        UserError, match="unknown connector 'maps' in SRRL.CONNECTOR: did you mean 'map'"
    ):
        build("SRRL.CONNECTOR", "maps")

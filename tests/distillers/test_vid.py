"""VID's loss by hand, against the Gaussian density and a slow version.

Its variances, extremes, refusals.
"""

import math

import pytest
import torch
from support.oracles import formula

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.vid import VID, Predictor, vid_loss
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

MEAN, TEACHER, RHO = formula((3, 4, 2, 2), "mean"), formula((3, 4, 2, 2), "t"), formula((4,), "rho")


def test_hand_computed():
    rho = torch.tensor([1.5, 3.5]).double().expm1().log()  # variances 2 and 4
    mean, teacher = (
        torch.tensor([1.0, 5.0]).double().view(1, 2, 1, 1),
        torch.tensor([3.0, 5.0]).double().view(1, 2, 1, 1),
    )
    expected = 0.5 * ((4 / 2 + math.log(2)) + (0 + math.log(4))) / 2
    assert vid_loss(mean, teacher, rho, 0.5).item() == pytest.approx(expected, rel=1e-12)


def test_it_is_the_gaussian_negative_log_likelihood_less_its_constant():
    variance = RHO.exp().log1p() + 1e-5
    density = torch.distributions.Normal(MEAN, variance.sqrt().view(1, -1, 1, 1))
    expected = -density.log_prob(TEACHER).mean() - 0.5 * math.log(2 * math.pi)
    assert vid_loss(MEAN, TEACHER, RHO, 1e-5).item() == pytest.approx(expected.item(), rel=1e-10)


def test_slow_version():
    total = 0.0
    for n in range(3):
        for c in range(4):
            variance = math.log(1 + math.exp(RHO[c].item())) + 1e-5
            for m, t in zip(
                MEAN[n, c].flatten().tolist(), TEACHER[n, c].flatten().tolist(), strict=True
            ):
                total += 0.5 * ((m - t) ** 2 / variance + math.log(variance)) / MEAN.numel()
    assert vid_loss(MEAN, TEACHER, RHO, 1e-5).item() == pytest.approx(total, rel=1e-10)


def test_the_best_variance_is_the_mean_squared_error():
    best = (MEAN - TEACHER).square().mean((0, 2, 3))
    rho = (best - 1e-5).expm1().log().requires_grad_()
    loss = vid_loss(MEAN, TEACHER, rho, 1e-5)
    assert loss.item() == pytest.approx(0.5 * (1 + best.log().mean()).item(), rel=1e-10)
    assert torch.autograd.grad(loss, rho)[0].abs().max() < 1e-12


def test_moving_both_maps_changes_nothing():
    mean, moved = MEAN.clone().requires_grad_(), (MEAN + 3).requires_grad_()
    loss, again = vid_loss(mean, TEACHER, RHO, 1e-5), vid_loss(moved, TEACHER + 3, RHO, 1e-5)
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, mean), torch.autograd.grad(again, moved))


def test_gradient_is_that_of_finite_differences():
    inputs = MEAN.clone().requires_grad_(), RHO.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda mean, rho: vid_loss(mean, TEACHER, rho, 1e-5), inputs)


@pytest.mark.parametrize("rho", [-500.0, 0.0, 500.0])
@pytest.mark.parametrize("value", [0.0, 500.0])
def test_extreme_and_constant_maps_and_variances_stay_finite(rho, value):
    inputs = (
        torch.full((3, 4, 2, 2), value, requires_grad=True),
        torch.full((4,), rho, requires_grad=True),
    )
    loss = vid_loss(inputs[0], torch.full((3, 4, 2, 2), -500.0), inputs[1], 1e-5)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize("variance", [1e-4, 5.0, 1000.0])
def test_variances_start_where_the_config_says(variance):
    rho = Predictor(2, 3, variance, 1e-5).rho
    torch.testing.assert_close(
        torch.nn.functional.softplus(rho) + 1e-5, torch.full((3,), variance), rtol=1e-5, atol=0
    )


def build(*words: str, pair: str = "resnet8x4/resnet8") -> VID:
    teacher, student = pair.split("/")
    return VID(
        build_model(student, 10),
        build_model(teacher, 10),
        load_config(None, ["DISTILLER.TYPE", "VID", *words]),
    )


def test_variances_are_learnt_and_saved():  # in mdistiller they are neither
    distiller = build()
    learnable = {id(p) for p in distiller.get_learnable_parameters()}
    for i, predictor in enumerate(distiller.predictors):
        assert isinstance(predictor.rho, torch.nn.Parameter) and id(predictor.rho) in learnable
        assert f"predictors.{i}.rho" in distiller.state_dict()
    channels = ((16, 64), (32, 128), (64, 256))
    assert distiller.get_extra_parameters() == sum(s * t + 2 * t * t + t for s, t in channels)


def test_one_step_is_the_sum_over_stages():
    distiller = build().double().train()
    image, target = formula((4, 3, 16, 16), "image"), torch.arange(4)
    with torch.no_grad():
        _, losses = distiller(image=image, target=target)
        own, theirs = (net(image)[1]["feats"][1:] for net in (distiller.student, distiller.teacher))
        expected = 0.0
        for predictor, s, t in zip(distiller.predictors, own, theirs, strict=True):
            hidden = s
            for convolution in predictor.mean[::2]:
                weight = convolution.weight[:, :, 0, 0]
                hidden = torch.einsum(
                    "dc,nchw->ndhw", weight, hidden if hidden is s else hidden.relu()
                )
            expected += vid_loss(hidden, t, predictor.rho, 1e-5).item()
    assert losses["loss_kd"].item() == pytest.approx(expected, rel=1e-10)


def test_the_larger_map_is_pooled():
    predictor = Predictor(2, 3, 5.0, 1e-5).double()
    small, teacher = formula((2, 2, 2, 2), "s"), formula((2, 3, 2, 2), "t")
    large, larger_teacher = (
        x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (small, teacher)
    )
    expected = predictor(small, teacher).item()
    assert predictor(large, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert predictor(small, larger_teacher).item() == pytest.approx(expected, rel=1e-12)


def test_stages_without_partner_are_left_out():
    distiller = build(pair="vgg8/resnet8")
    assert len(distiller.predictors) == 3
    _, losses = distiller.train()(image=torch.randn(2, 3, 32, 32), target=torch.arange(2))
    assert torch.isfinite(losses["loss_kd"])


def test_probing_leaves_no_trace():
    distiller = build()
    for network in (distiller.student, distiller.teacher):
        assert all(
            v == 0
            for name, v in network.state_dict().items()
            if name.endswith("num_batches_tracked")
        )


@pytest.mark.parametrize(
    "key, value, message",
    [("EPS", "0.0", "above 0"), ("INIT_PRED_VAR", "0.00001", "above VID.EPS, 1e-05")],
)
def test_meaningless_settings_are_refused(key, value, message):
    with pytest.raises(UserError, match=f"VID.{key} is {float(value)}; allowed: {message}"):
        build(f"VID.{key}", value)


def test_defaults_are_mdistillers():
    node = load_config(None, ["VID.INPUT_SIZE", "(32, 32)"]).VID
    assert (node.EPS, node.INIT_PRED_VAR, node.INPUT_SIZE) == (1e-5, 5.0, [32, 32])
    assert (node.LOSS.CE_WEIGHT, node.LOSS.FEAT_WEIGHT) == (1.0, 1.0)

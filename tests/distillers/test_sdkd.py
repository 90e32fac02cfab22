"""SDKD's step: what it computes, what it leaves alone, what it refuses.

The proxy's machinery: test_sdkd_proxy.py.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.sdkd_steps import (
    WEIGHTS,
    batch,
    build,
    only,
    optimizer,
    step,
)
from torch import Tensor, nn

from sdkd_plugin.distillers.proxy import FFB, resize
from sdkd_plugin.distillers.sdkd import SDKD, feature_distance
from sdkd_plugin.randomness import torch_seeded

KINDS = ("gate", "concat", "residual")
ALL_DIFFERENT = dict(zip(WEIGHTS, (0.9, 1.7, 1.3, 0.6, 0.8, 1.1, 1.9), strict=True))


# --- an independent, slow version of one step


def slow_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (x - mean) / (var + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[
        :, None, None
    ]


def slow_fusion(ffb: FFB, kind: str, p: Tensor, t: Tensor) -> Tensor:
    t = slow_norm(
        torch.einsum("nchw,dc->ndhw", t, ffb.project[0].weight[:, :, 0, 0]), ffb.project[1]
    )
    both = torch.cat([p, t], 1)
    fuse = ffb.fuse
    if kind == "gate":
        gates = (
            torch.einsum("nchw,dc->ndhw", both, ffb.gates.weight[:, :, 0, 0])
            + ffb.gates.bias[:, None, None]
        )
        a, b = (1 / (1 + (-gates).exp())).chunk(2, 1)
        f = slow_norm(F.conv2d(a * p + b * t, fuse[0].weight, padding=1), fuse[1])
    else:
        f = slow_norm(torch.einsum("nchw,dc->ndhw", both, fuse[0].weight[:, :, 0, 0]), fuse[1])
    if kind == "residual":
        f = p + slow_norm(F.conv2d(f.clamp(min=0), fuse[3].weight, padding=1), fuse[4])
    return f.clamp(min=0)


def slow_kl(target_logits: Tensor, logits: Tensor, tau: float) -> Tensor:
    p, q = (
        z.div(tau).exp() / z.div(tau).exp().sum(1, keepdim=True) for z in (target_logits, logits)
    )
    return tau**2 * (p * (p / q).log()).sum() / len(p)


def slow_step(
    distiller: SDKD, image: Tensor, target: Tensor, kind: str, w: dict, tau: float, ramp: float
) -> tuple:
    """Losses and gradients for resnets: the whole proxy pass, from the image.

    Student and fusion losses apart.
    """
    student, proxy = distiller.student, copy.deepcopy(distiller.student).requires_grad_(False)
    z_s, feats = student(image)
    z_t, teacher_feats = distiller.teacher(image)
    ffbs = [getattr(distiller.proxy.model, f"layer{k}").fusion for k in (1, 2, 3)]
    x, fused = proxy.relu(proxy.bn1(proxy.conv1(image))), []
    for k, ffb in enumerate(ffbs, 1):
        x = slow_fusion(ffb, kind, getattr(proxy, f"layer{k}")(x)[0], teacher_feats["feats"][k])
        fused.append(x)
    z_p = proxy.fc(x.mean((2, 3)))
    ce_s, ce_p = (-(z.log_softmax(1)[range(len(target)), target]).mean() for z in (z_s, z_p))
    distance = 0
    for s, f in zip(feats["feats"][1:], fused, strict=True):
        s, f = s.flatten(1), f.detach().flatten(1)
        distance += (2 - 2 * (s * f).sum(1) / s.norm(dim=1) / f.norm(dim=1)).mean()
    student_kd = w["TEACHER_WEIGHT"] * slow_kl(z_t, z_s, tau) + w["PROXY_WEIGHT"] * slow_kl(
        z_p.detach(), z_s, tau
    )
    student_kd = ramp * (student_kd + w["FEAT_WEIGHT"] * distance)
    fusion_kd = ramp * (
        w["MUTUAL_WEIGHT"] * slow_kl(z_s.detach(), z_p, tau)
        + w["PROXY_TEACHER_WEIGHT"] * slow_kl(z_t, z_p, tau)
    )
    ce_s, ce_p = w["CE_WEIGHT"] * ce_s, w["PROXY_CE_WEIGHT"] * ce_p
    fusion_parameters = [p for ffb in ffbs for p in ffb.parameters()]
    grads = torch.autograd.grad(ce_s + student_kd, list(student.parameters()), retain_graph=True)
    return (
        ce_s + ce_p,
        student_kd + fusion_kd,
        [*grads, *torch.autograd.grad(ce_p + fusion_kd, fusion_parameters)],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_equal_a_slow_independent_version(kind):
    settings = {"TAU": 3.0, "WARMUP": 5, "FUSION": kind}
    distiller = build(loss=ALL_DIFFERENT, **settings).double()
    data = batch(dtype=torch.float64)
    if kind == "residual":  # away from its start, where the branch is silent
        with torch.no_grad(), torch_seeded(0, "norms"):
            for k in (1, 2, 3):
                nn.init.normal_(getattr(distiller.proxy.model, f"layer{k}").fusion.fuse[-1].weight)
    loss_ce, loss_kd, grads = slow_step(
        copy.deepcopy(distiller), **data, kind=kind, w=ALL_DIFFERENT, tau=3.0, ramp=2 / 5
    )
    _, losses = distiller(**data, epoch=2)
    sum(losses.values()).backward()
    torch.testing.assert_close(losses["loss_ce"], loss_ce, rtol=1e-12, atol=0)
    torch.testing.assert_close(losses["loss_kd"], loss_kd, rtol=1e-11, atol=0)
    for (name, parameter), expected in zip(learnable(distiller).items(), grads, strict=True):
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


def learnable(distiller: SDKD) -> dict[str, nn.Parameter]:
    return {name: p for name, p in distiller.named_parameters() if not name.startswith("teacher.")}


# --- who learns from what


def test_no_loss_of_the_fusion_reaches_the_student():
    weights = only("PROXY_CE_WEIGHT", "MUTUAL_WEIGHT", "PROXY_TEACHER_WEIGHT")
    # residual's last norm starts at zero and lets nothing through to the layers before it
    distiller = build(FUSION="gate", loss=weights)
    sum(distiller(**batch())[1].values()).backward()
    assert all(p.grad is None for p in distiller.student.parameters())
    assert all(p.grad.abs().sum() > 0 for p in distiller.proxy.parameters())


def test_no_loss_of_the_student_reaches_the_fusion():
    distiller = build(loss=only("CE_WEIGHT", "TEACHER_WEIGHT", "PROXY_WEIGHT", "FEAT_WEIGHT"))
    sum(distiller(**batch())[1].values()).backward()
    assert all(p.grad is None for p in distiller.proxy.parameters())
    assert all(p.grad.abs().sum() > 0 for p in distiller.student.parameters())


@pytest.mark.parametrize(
    ("kind", "mixed"),
    [
        (
            "gate",
            lambda c: 2 * 2 * c + 2 + 9 * c * c + 2 * c,
        ),  # two maps from 2C, then 3x3 and norm
        ("concat", lambda c: 2 * c * c + 2 * c),
        ("residual", lambda c: 2 * c * c + 2 * c + 9 * c * c + 2 * c),
    ],
)
def test_only_the_fusion_blocks_are_trainable_in_the_proxy(kind, mixed):
    distiller = build(FUSION=kind)
    assert all(".fusion." in name for name, _ in distiller.proxy.named_parameters())
    # per stage of C channels: C C_t + 2C (projection), and what mixes
    expected = sum(c * c + 2 * c + mixed(c) for c in (16, 32, 64))
    assert distiller.get_extra_parameters() == expected


def test_each_loss_can_be_differentiated_alone_as_mdistillers_dot_trainer_does():
    distiller = build(FUSION="gate")  # each layer has a gradient from the first step on
    _, losses = distiller(**batch())
    parameters = distiller.get_learnable_parameters()
    kd = torch.autograd.grad(losses["loss_kd"], parameters, retain_graph=True)
    ce = torch.autograd.grad(losses["loss_ce"], parameters, retain_graph=True)
    both = torch.autograd.grad(sum(losses.values()), parameters)
    for a, b, total in zip(kd, ce, both, strict=True):
        assert a.abs().sum() > 0 and b.abs().sum() > 0
        torch.testing.assert_close(a + b, total, rtol=1e-4, atol=1e-6)


# --- the fusion block


def test_residual_fusion_starts_as_the_student_itself():
    distiller = build(FUSION="residual", loss={"FEAT_WEIGHT": 1.0})
    z_s, feats = distiller.student(batch()["image"])
    teacher_feats = distiller.teacher(batch()["image"])[1]["feats"]
    z_p, fused = distiller.proxy(
        batch()["image"], distiller.student, feats["feats"], dict(enumerate(teacher_feats)), 1
    )
    assert torch.equal(z_p, z_s)
    assert all(torch.equal(f, s) for f, s in zip(fused[1:], feats["feats"][1:], strict=True))
    sgd = optimizer(distiller)
    step(distiller, sgd, batch(0))
    assert distiller.terms["kd_proxy"] == 0 and distiller.terms["feat"] == 0
    step(distiller, sgd, batch(1))
    assert distiller.terms["kd_proxy"] > 0  # and learns from there


def test_teacher_fusion_hands_the_teachers_map_to_the_students_head():
    distiller = build(FUSION="teacher", STAGES="[3]", SYNC="step").double()
    assert distiller.get_extra_parameters() == 64 * 64 + 2 * 64
    image = batch(dtype=torch.float64)["image"]
    seen = []
    distiller.proxy.register_forward_hook(lambda module, args, out: seen.append(out))
    distiller(**batch(dtype=torch.float64))

    ffb = distiller.proxy.model.layer3.fusion
    t = distiller.teacher(image)[1]["feats"][3]
    f = slow_norm(
        torch.einsum("nchw,dc->ndhw", t, ffb.project[0].weight[:, :, 0, 0]), ffb.project[1]
    ).clamp(min=0)
    torch.testing.assert_close(seen[0][1][3], f, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        seen[0][0], distiller.student.fc(f.mean((2, 3))), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "teacher"])
def test_the_fused_map_has_the_shape_and_range_of_the_proxys(kind, signed):
    with torch_seeded(0, "ffb"):
        ffb, p = FFB(6, 10, kind, signed), torch.randn(4, 6, 8, 8)
        if kind == "residual":
            nn.init.ones_(ffb.fuse[-1].weight)
        p = p if signed else p.relu()
        for size in (4, 8, 16):
            f = ffb(p, torch.randn(4, 10, size, size))
            assert f.shape == p.shape
            assert (f.min() < 0) == signed


def test_resize_pools_down_and_interpolates_up():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert resize(x, torch.Size([4, 4])) is x
    assert resize(x, torch.Size([2, 2])).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    # pixel centres of the larger grid lie at -1/4, 1/4, 3/4, 5/4 of the smaller; outside it the
    # border value holds
    enlarged = resize(torch.tensor([[[[0.0, 4.0]] * 2]]), torch.Size([4, 4]))
    assert enlarged[0, 0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]


def test_feature_distance_by_hand():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).reshape(2, 2, 1, 1)
    b = torch.tensor([[6.0, 8.0], [0.0, 5.0]]).reshape(2, 2, 1, 1)
    assert feature_distance(a, b).item() == pytest.approx((0 + 2) / 2)
    assert feature_distance(a, -a).item() == pytest.approx(4)
    assert feature_distance(a, 7 * a).item() == pytest.approx(0, abs=1e-12)


def test_feature_distance_survives_a_dead_map():
    zeros = torch.zeros(2, 3, 4, 4, requires_grad=True)
    distance = feature_distance(zeros, torch.ones(2, 3, 4, 4))
    distance.backward()
    assert distance.item() == pytest.approx(1) and torch.isfinite(zeros.grad).all()


# --- controls


def seen_by_fusion(distiller: SDKD) -> dict[int, Tensor]:
    seen: dict[int, Tensor] = {}
    for k in distiller.proxy.stages:
        ffb = getattr(distiller.proxy.model, f"layer{k}").fusion
        ffb.register_forward_pre_hook(lambda _, args, k=k: seen.__setitem__(k, args[1]))
    distiller(**batch())
    return seen


def test_teacher_features_own_zeros_and_shuffled():
    own = build(TEACHER_FEATURES="own")
    t = own.teacher(batch()["image"])[1]["feats"]
    for k, seen in seen_by_fusion(own).items():
        assert torch.equal(seen, t[k])
    for k, seen in seen_by_fusion(build(TEACHER_FEATURES="zeros")).items():
        assert seen.shape == t[k].shape and not seen.any()
    for k, seen in seen_by_fusion(build(TEACHER_FEATURES="shuffled")).items():
        assert torch.equal(seen, torch.cat([t[k][-1:], t[k][:-1]]))


def test_of_a_vgg_teacher_the_fusion_sees_the_maps_before_the_relu():
    distiller = build("resnet8", "vgg8")
    t = distiller.teacher(batch()["image"])[1]["preact_feats"]
    seen = seen_by_fusion(distiller)
    assert seen.keys() == {1, 2, 3} and all(
        torch.equal(seen[k], t[k + 1]) and seen[k].min() < 0 for k in seen
    )

"""SDKD's proxy on replicas, with every pair and precision, and on mdistiller's own models."""

import copy
import importlib
import os

import pytest
import torch
from support.replicas import replicate
from support.sdkd_steps import CLASSES, batch, build, config, leftovers, optimizer, step
from torch.nn.modules.batchnorm import _BatchNorm

from sdkd_plugin.distillers.sdkd import SDKD


@pytest.mark.parametrize(
    "settings", [{}, {"STAGES": "[2]"}, {"PROXY_BN": "student"}, {"SYNC": "init"}], ids=str
)
@pytest.mark.parametrize("student", ["resnet8", "wrn_16_1"])
def test_a_replica_runs_its_own_students_weights(student, settings):
    distiller = build(student, **settings)
    with torch.no_grad():
        distiller(**batch(0, n=4))  # P has the weights of before the replication
    distiller.proxy._synced.write(distiller.proxy, -1)
    expected = copy.deepcopy(distiller)
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter.mul_(1.25)
    replica = replicate(distiller, change=1.25)
    assert list(replica.parameters()) == []
    z, losses = replica(**batch(1, n=4))
    z_expected, losses_expected = expected(**batch(1, n=4))
    assert torch.equal(z, z_expected) and losses == losses_expected
    assert not torch.equal(z, distiller(**batch(1, n=4))[0])
    assert leftovers(replica) == []
    sum(losses.values()).backward()
    sum(losses_expected.values()).backward()
    for p, q in zip(
        distiller.get_learnable_parameters(), expected.get_learnable_parameters(), strict=True
    ):
        # through the replica to the original's leaves
        torch.testing.assert_close(p.grad, 1.25 * q.grad)


@pytest.mark.parametrize("sync", ["epoch", "init", "ema"])
def test_what_the_first_replica_copies_outlives_it(sync):
    """As with batch norm's statistics: the first replica changes the module's buffers in place."""
    distiller = build(SYNC=sync)
    replica = replicate(distiller, change=1.5, same_device=True)
    replica(**batch(), epoch=3)
    assert distiller.proxy.synced == 3
    assert torch.equal(distiller.proxy.model.conv1.weight, 1.5 * distiller.student.conv1.weight)


PAIRS = [  # teacher, student, slow
    ("resnet56", "resnet20", False),
    ("resnet110", "resnet20", True),
    ("resnet110", "resnet32", True),
    ("wrn_40_2", "wrn_16_2", False),
    ("wrn_40_2", "wrn_40_1", True),
    ("vgg13", "vgg8", True),
    ("resnet32x4", "resnet8x4", True),
    ("ResNet50", "MobileNetV2", True),
    ("vgg13", "MobileNetV2", True),
    ("resnet32x4", "ShuffleV1", True),
    ("resnet32x4", "ShuffleV2", True),
    ("wrn_40_2", "ShuffleV1", True),
]


@pytest.mark.parametrize(
    ("teacher", "student"),
    [pytest.param(t, s, marks=[pytest.mark.slow] if slow else []) for t, s, slow in PAIRS],
)
@pytest.mark.parametrize("kind", ["gate", "concat", "residual"])
def test_two_steps_of_every_pair(teacher, student, kind):
    distiller = build(student, teacher, FUSION=kind, loss={"FEAT_WEIGHT": 0.1})
    before, sgd = copy.deepcopy(distiller.state_dict()), optimizer(distiller)
    for number in range(2):
        losses = step(distiller, sgd, batch(number, size=32, n=4))
        assert all(torch.isfinite(value) for value in losses.values())
    after, trainable = (
        distiller.state_dict(),
        {n for n, _ in distiller.named_parameters() if not n.startswith("teacher.")},
    )
    assert [n for n in trainable if torch.equal(before[n], after[n])] == []
    assert [
        n for n in after if n.startswith("teacher.") and not torch.equal(before[n], after[n])
    ] == []


@pytest.mark.parametrize("kind", ["gate", "concat", "residual"])
@pytest.mark.parametrize(
    ("student", "teacher"),
    [("resnet8", "wrn_16_1"), ("MobileNetV2", "resnet8"), ("vgg8", "MobileNetV2")],
)
def test_bfloat16_autocast_in_channels_last(student, teacher, kind):
    """Maps of the teacher larger and smaller than the student's."""
    distiller = build(student, teacher, FUSION=kind, loss={"FEAT_WEIGHT": 0.5}).to(
        memory_format=torch.channels_last
    )
    data = batch(n=4)
    data["image"] = data["image"].to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, losses = distiller(**data)
    assert all(value.dtype is torch.float32 and torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in distiller.get_learnable_parameters())


@pytest.fixture
def mdistiller(monkeypatch):
    """The model dictionary of a real mdistiller checkout."""
    root = os.environ.get("MDISTILLER_ROOT")
    if not root:
        pytest.skip("needs a checkout of mdistiller; set MDISTILLER_ROOT to its folder")
    monkeypatch.syspath_prepend(root)
    return importlib.import_module("mdistiller.models.cifar").cifar_model_dict


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("resnet14", "resnet8"),
        ("wrn_16_1", "wrn_16_1"),
        ("vgg13", "vgg8"),
        ("resnet14", "MobileNetV2"),
        ("wrn_16_2", "ShuffleV1"),
        ("vgg8", "ShuffleV2"),
        ("ResNet50", "resnet8"),
        ("resnet8", "ResNet18"),
    ],
)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"STAGES": "[2]"},
        {"STAGES": "[3]"},
        {"SYNC": "epoch", "FUSION": "concat"},
        {"PROXY_BN": "student", "STAGES": "[2]"},
    ],
    ids=str,
)
def test_on_mdistillers_own_models_it_computes_the_same(mdistiller, teacher, student, settings):
    ours = build(student, teacher, loss={"FEAT_WEIGHT": 0.5}, **settings).double()
    models = []
    for name, source in ((student, ours.student), (teacher, ours.teacher)):
        model = mdistiller[name][0](num_classes=CLASSES)
        model.load_state_dict(source.state_dict())
        models.append(model)
    theirs = SDKD(*models, config({"FEAT_WEIGHT": 0.5}, **settings)).double().train()
    theirs.proxy.load_state_dict(ours.proxy.state_dict(), strict=False)
    for module in [*ours.student.modules(), *theirs.student.modules()]:
        if isinstance(module, _BatchNorm):
            # mdistiller's WRN moves three of its norms twice a step: with 1 that changes nothing
            module.momentum = 1.0
    data = batch(size=32, n=4, dtype=torch.float64)
    results = [distiller(**data) for distiller in (ours, theirs)]
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-9, atol=1e-9)
    for name, value in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], value, rtol=1e-8, atol=0)
    for name, value in ours.terms.items():
        torch.testing.assert_close(theirs.terms[name], value, rtol=1e-8, atol=1e-10)
    for _, losses in results:
        sum(losses.values()).backward()
    for p, q in zip(
        ours.get_learnable_parameters(), theirs.get_learnable_parameters(), strict=True
    ):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-5, atol=1e-8)

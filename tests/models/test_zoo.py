"""Every model against mdistiller's numbers (tests/oracle/zoo.json) and `CifarNet`'s contract."""

import copy

import pytest
import torch
from support.oracles import fill, formula, load
from torch import Tensor, nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.models import PUBLISHED_TEACHERS, build_model, teacher_checkpoint
from sdkd_plugin.registry import MODELS

ORACLE = load("zoo")["models"]
LINEAR_STAGES = ("wrn", "MobileNetV2")  # families whose feats are not the ReLU of preact_feats


def stage_names(name: str) -> list[str]:
    """The child that computes each entry of `feats` after the stem."""
    if name.startswith("wrn"):
        return ["block1", "block2", "block3"]
    if name.startswith("vgg"):
        return ["block1", "block2", "block3", "block4"]
    if name == "MobileNetV2":
        return ["blocks.1", "blocks.2", "blocks.4", "blocks.6"]
    return ["layer1", "layer2", "layer3", "layer4"][: 4 if name.startswith("ResNet") else 3]


def images(size: int, batch: int = 2) -> Tensor:
    return formula((batch, 3, size, size), "contract").float()


@pytest.fixture(scope="module", params=sorted(ORACLE))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def net(name: str) -> nn.Module:
    """A float32 model in eval mode whose norms have seen data, so that nothing is trivially zero.

    Not to be changed.
    """
    torch.manual_seed(0)
    net = build_model(name, 100)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(images(16, batch=4))
    return net.eval()


def assert_recorded(actual: Tensor | list, recorded: list) -> None:
    """Relative 1e-8, plus the rounding of the record to nine decimals."""
    actual = actual if isinstance(actual, Tensor) else torch.stack(actual)
    torch.testing.assert_close(
        actual, torch.tensor(recorded, dtype=torch.float64), rtol=1e-8, atol=1e-9
    )


def test_zoo_is_complete():
    assert {entry.name for entry in MODELS} >= set(ORACLE)


def test_equals_mdistiller(name: str):
    record = ORACLE[name]
    net = fill(build_model(name, 100))
    shapes = [(key, list(value.shape)) for key, value in net.state_dict().items()]
    assert shapes == list(record["state"].items())
    assert sum(p.numel() for p in net.parameters()) == record["parameters"]
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    image = formula((4, 3, 32, 32), "image")
    with torch.no_grad():
        assert_recorded(net.train()(image)[0][:, :10], record["train_logits"])
        assert {int(norm.num_batches_tracked) for norm in norms} == {1}
        logits, feats = net.eval()(image)
    assert_recorded(logits[:, :10], record["eval_logits"])
    assert [list(feat.shape[1:]) for feat in feats["feats"]] == record["feats"]
    assert_recorded([feat.mean() for feat in feats["feats"]], record["feats_mean"])
    assert_recorded([feat.min() for feat in feats["feats"]], record["feats_min"])
    assert list(feats["pooled_feat"].shape[1:]) == record["pooled"]
    assert_recorded(feats["pooled_feat"].mean(), record["pooled_mean"])
    if name == "MobileNetV2":
        assert record["preact"] is None  # upstream has none
        return
    assert [list(preact.shape[1:]) for preact in feats["preact_feats"]] == record["preact"]
    assert_recorded([preact.mean() for preact in feats["preact_feats"]], record["preact_mean"])


@torch.no_grad()
def test_features_tell_the_truth(name: str, net: nn.Module):
    logits, feats = net(images(32))
    assert list(feats) == ["feats", "preact_feats", "head_in", "pooled_feat"]
    assert net.get_stage_channels() == [feat.shape[1] for feat in feats["feats"]]
    assert feats["preact_feats"][0] is feats["feats"][0]
    for feat, preact in zip(feats["feats"][1:], feats["preact_feats"][1:], strict=True):
        assert preact.min() < 0, "a ReLU went over the pre-activation"
        if name.startswith(LINEAR_STAGES):
            assert feat.min() < 0
        else:
            torch.testing.assert_close(feat, preact.relu(), rtol=0, atol=0)
    if name == "MobileNetV2":
        assert all(
            feat is preact
            for feat, preact in zip(feats["feats"], feats["preact_feats"], strict=True)
        )
    assert feats["head_in"].min() >= 0
    torch.testing.assert_close(feats["pooled_feat"], feats["head_in"].flatten(2).mean(2))
    linear = net.classifier_module()
    assert type(linear) is nn.Linear and linear.out_features == 100
    torch.testing.assert_close(logits, feats["pooled_feat"] @ linear.weight.T + linear.bias)
    again, pooled = net.forward_head(feats["head_in"])
    assert torch.equal(again, logits) and torch.equal(pooled, feats["pooled_feat"])


@torch.no_grad()
def test_forward_goes_through_forward_head(net: nn.Module):
    changed = copy.deepcopy(net)
    changed.forward_head = lambda head_in: net.forward_head(2 * head_in)
    image = images(16)
    torch.testing.assert_close(changed(image)[1]["pooled_feat"], 2 * net(image)[1]["pooled_feat"])


def test_feature_modules_are_all_but_the_classifier(net: nn.Module):
    features = {id(p) for p in net.get_feat_modules().parameters()}
    classifier = {id(p) for p in net.classifier_module().parameters()}
    assert features | classifier == {id(p) for p in net.parameters()} and not features & classifier


@torch.no_grad()
def test_norm_before_relu_shifts_the_preactivation(name: str, net: nn.Module):
    if name == "ShuffleV2":
        with pytest.raises(UserError, match="choose another DISTILLER.TEACHER"):
            net.get_bn_before_relu()
        return
    before = net(images(16))[1]["preact_feats"]
    norms = net.get_bn_before_relu()
    assert len(norms) == len(before) - 1
    for k in range(len(norms)):
        shifted = copy.deepcopy(net)
        norm = shifted.get_bn_before_relu()[k]
        shift = formula(tuple(norm.bias.shape), "shift").float()
        norm.bias += shift
        after = shifted(images(16))[1]["preact_feats"]
        assert all(torch.equal(a, b) for a, b in zip(after[: k + 1], before[: k + 1], strict=True))
        expected = before[k + 1] + shift[:, None, None]
        torch.testing.assert_close(after[k + 1], expected, rtol=1e-4, atol=1e-4)


class Scaled(nn.Module):
    """What a plug-in does to a stage: halves its output and spoils the pre-activation.

    Nothing may continue with the latter.
    """

    def __init__(self, stage: nn.Module):
        super().__init__()
        self.stage = stage

    @property
    def layer(self) -> nn.Module:
        return self.stage.layer

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        out = self.stage(x)
        return (
            (out[0] / 2, torch.full_like(out[1], torch.nan)) if isinstance(out, tuple) else out / 2
        )


@torch.no_grad()
def test_wrapped_stage_reaches_everything_behind_it(name: str, net: nn.Module):
    image = images(16)
    logits, before = net(image)
    for k, child in enumerate(stage_names(name), start=1):
        wrapped = copy.deepcopy(net)
        wrapped.set_submodule(child, Scaled(wrapped.get_submodule(child)))
        logits_wrapped, after = wrapped(image)
        assert all(
            torch.equal(a, b) for a, b in zip(after["feats"][:k], before["feats"][:k], strict=True)
        )
        torch.testing.assert_close(after["feats"][k], before["feats"][k] / 2)
        behind = zip(after["feats"][k + 1 :], before["feats"][k + 1 :], strict=True)
        assert not any(torch.allclose(a, b, rtol=1e-3) for a, b in behind)
        assert torch.isfinite(logits_wrapped).all() and not torch.allclose(
            logits_wrapped, logits, rtol=1e-3
        )


@torch.no_grad()
@pytest.mark.parametrize("size", [8, 33, 64])
def test_any_image_size(name: str, net: nn.Module, size: int):
    logits, feats = net(images(size))
    assert logits.shape == (2, 100) and torch.isfinite(logits).all()
    assert feats["pooled_feat"].shape[1] == ORACLE[name]["pooled"][0]
    if size == 64:
        fourth_pool = name.startswith("vgg")  # as mdistiller has it for Tiny ImageNet
        expected = [[c, 2 * h, 2 * w] for c, h, w in ORACLE[name]["feats"]]
        expected[-1] = ORACLE[name]["feats"][-1] if fourth_pool else expected[-1]
        assert [list(feat.shape[1:]) for feat in feats["feats"]] == expected


def test_vgg_says_when_the_image_is_too_small():
    with pytest.raises(
        UserError, match="cannot halve a map of 1x1 any more: choose images of 8x8 pixels"
    ):
        build_model("vgg8", 10)(images(7))


@torch.no_grad()
def test_channels_last(net: nn.Module):
    image = images(16)
    logits, feats = net(image)
    strided = copy.deepcopy(net).to(memory_format=torch.channels_last)
    logits_strided, feats_strided = strided(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(logits_strided, logits, rtol=1e-3, atol=1e-3)
    assert feats_strided["feats"][-1].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        feats_strided["preact_feats"][-1], feats["preact_feats"][-1], rtol=1e-3, atol=1e-3
    )


def test_autocast_reaches_every_weight(net: nn.Module):
    """Under bf16 autocast the loss reaches every weight, through logits and features.

    And a copy after it is whole.
    """
    trained = copy.deepcopy(net).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits, feats = trained(images(16))
        loss = logits.float().square().sum() + sum(
            preact.float().square().mean() for preact in feats["preact_feats"]
        )
    loss.backward()
    assert logits.dtype == torch.bfloat16
    for key, parameter in trained.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
        # a bias may be undone by the norm behind it
        assert parameter.ndim == 1 or parameter.grad.any(), key
    with torch.no_grad():
        twin, original = copy.deepcopy(trained).eval(), trained.eval()
        assert torch.equal(twin(images(16))[0], original(images(16))[0])


def test_unknown_model_names_the_nearest():
    with pytest.raises(UserError, match="unknown model 'resnet57' .*did you mean 'resnet5?[60]'"):
        build_model("resnet57", 100)
    with pytest.raises(UserError, match="did you mean 'vgg13'"):
        teacher_checkpoint("vgg13_bn")


def test_no_classes():
    with pytest.raises(UserError, match="num_classes is 0 for model 'vgg8': it must be at least 1"):
        build_model("vgg8", 0)


def test_published_teachers_are_in_the_zoo():
    assert len(PUBLISHED_TEACHERS) == 6 and set(PUBLISHED_TEACHERS) < {
        entry.name for entry in MODELS
    }


def test_teacher_checkpoints(name: str):
    assert (
        teacher_checkpoint(name)
        == f"download_ckpts/cifar_teachers/{name}_vanilla/ckpt_epoch_240.pth"
    )

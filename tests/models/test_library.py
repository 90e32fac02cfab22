"""Models of torchvision and timm as teachers and students."""

import copy
import re
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from cases import CASES, Case
from support import loop
from support.replicas import replicate
from torch import nn

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.models.families import find_family
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import MODELS
from sdkd_plugin.runs.environment import describe_environment

K = 7
RESNET = "torchvision:resnet18"
NAMES = (RESNET, "torchvision:mobilenet_v2", "timm:resnet18", "timm:mobilenetv1_100")
VIT = "timm:vit_tiny_patch16_224"


def images(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def library_net(name: str, seed: int) -> nn.Module:
    """As the library builds it, without this package."""
    torch.manual_seed(seed)
    library, _, rest = name.partition(":")
    if library == "timm":
        return timm.create_model(rest, num_classes=K)
    return torchvision.models.get_model(rest, weights=None, num_classes=K)


def built(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, K)


@pytest.mark.parametrize("name", [*NAMES, "torchvision:densenet121", VIT])
def test_it_is_the_librarys_network_weight_for_weight_and_bit_for_bit(name):
    ours, theirs = built(name).eval(), library_net(name, 0).eval()
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    x = images(224 if name == VIT else 64)
    assert torch.equal(ours(x)[0], theirs(x))


@pytest.mark.parametrize("name", NAMES)
def test_files_go_both_ways(name):
    ours, theirs = built(name, 1), library_net(name, 2)
    ours.load_state_dict(theirs.state_dict())
    again = library_net(name, 3)
    again.load_state_dict(ours.state_dict())
    assert all(
        torch.equal(value, again.state_dict()[key]) for key, value in theirs.state_dict().items()
    )
    with pytest.raises(RuntimeError, match="Unexpected key"):
        ours.load_state_dict({**theirs.state_dict(), "more": torch.zeros(1)})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", [True, False])
def test_what_it_gives_beside_the_logits_hangs_together(name, mode):
    model = built(name).train(mode)
    if not mode:
        loop.calibrate(model)
    logits, feats = model(images())
    sizes = [each.shape[2] for each in feats["feats"]]
    assert len(sizes) == 5 and sizes == sorted(set(sizes), reverse=True)
    assert [each.shape[1] for each in feats["feats"]] == model.get_stage_channels()
    assert feats["head_in"] is feats["feats"][-1]
    if not mode:  # dropout stands before MobileNetV2's classifier
        torch.testing.assert_close(feats["head_in"].mean((2, 3)), feats["pooled_feat"])
        torch.testing.assert_close(model.classifier_module()(feats["pooled_feat"]), logits)
        torch.testing.assert_close(model.forward_head(feats["head_in"])[0], logits)

    act = F.relu6 if "mobile" in name else F.relu
    for map_, before in zip(feats["feats"], feats["preact_feats"], strict=True):
        assert map_ is before or torch.equal(map_, act(before))
    same = sum(a is b for a, b in zip(feats["feats"], feats["preact_feats"], strict=True))
    assert same == (4 if name.endswith("mobilenet_v2") else 0)  # linear bottlenecks


def test_maps_are_those_of_the_blocks():
    model = built(RESNET).eval()
    net = library_net(RESNET, 0).eval()
    x = images()
    stem = F.relu(net.bn1(net.conv1(x)))
    expected = [stem, net.layer1(net.maxpool(stem))]
    for layer in (net.layer2, net.layer3, net.layer4):
        expected.append(layer(expected[-1]))
    for ours, theirs in zip(model(x)[1]["feats"], expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_copy_keeps_its_own_maps():
    model = built(RESNET).eval()
    first = model(images())[1]["feats"][-1]
    twin = copy.deepcopy(model)  # a map of a graph could not be copied
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.1)
    assert not torch.equal(twin(images())[1]["feats"][-1], first)
    assert torch.equal(model(images())[1]["feats"][-1], first)


@pytest.mark.parametrize("name", NAMES)
def test_a_replica_keeps_its_own_maps(name):
    """Replicas share a module's hooks, and several run at once."""
    model, expected = built(name).eval(), built(name).eval()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter.mul_(1.1)
    replicas = [replicate(model, change) for change in (1.0, 1.1)]
    kept = [replica(images())[1] for replica in replicas]
    for feats, wanted in zip(kept, (model(images())[1], expected(images())[1]), strict=True):
        for key in ("feats", "preact_feats"):
            assert all(torch.equal(a, b) for a, b in zip(feats[key], wanted[key], strict=True))
        assert torch.equal(feats["pooled_feat"], wanted["pooled_feat"])


def test_nothing_of_a_batch_stays_in_the_model():
    model = built(RESNET)
    model(images())
    assert not any("kept" in name for m in model.modules() for name in vars(m))


def test_a_transformer_gives_what_its_classifier_sees_and_says_what_it_lacks():
    model = built(VIT).eval()
    logits, feats = model(images(224))
    assert feats.keys() == {"pooled_feat"} and feats["pooled_feat"].shape == (2, 192)
    torch.testing.assert_close(model.classifier_module()(feats["pooled_feat"]), logits)
    for key in ("feats", "preact_feats", "head_in"):
        with pytest.raises(UserError, match=f"{VIT} gives no '{key}': .*DISTILLER.TYPE"):
            feats[key]
    with pytest.raises(UserError, match="no square maps"):
        find_family(model)
    with pytest.raises(UserError, match="cannot run images of 64x64 .*224x224 is known to run"):
        model(images())


def test_what_is_wrong_at_a_size_that_runs_is_no_question_of_the_size():
    with pytest.raises(RuntimeError, match="channels"):
        built(RESNET)(torch.randn(2, 1, 32, 32))


def test_a_runs_folder_is_called_by_both_models_without_a_colon():
    words = ["DISTILLER.STUDENT", RESNET, "DISTILLER.TEACHER", "timm:resnet18"]
    cfg = load_config(configs_folder() / "cifar100" / "kd" / "res56_res20.yaml", words)
    assert cfg.EXPERIMENT.TAG == "kd,timm-resnet18,torchvision-resnet18"


def test_a_run_says_timms_version_where_timm_is_in_use(monkeypatch):
    assert describe_environment(torch.device("cpu"))["versions"]["timm"] == timm.__version__
    monkeypatch.delitem(sys.modules, "timm")
    assert "timm" not in describe_environment(torch.device("cpu"))["versions"]


@pytest.mark.parametrize("name, size", [("torchvision:vgg11", 32), (VIT, 224)])
def test_a_probe_fits_what_the_model_can_run(name, size):
    model = built(name)
    assert probe(model)[0].shape == (1, K)
    assert model.probe_size == size


def test_a_message_calls_it_by_its_name():
    with pytest.raises(UserError, match="torchvision:mobilenet_v2 does not let go"):
        loop.build(Case("SIMKD"), pair=f"{RESNET}/torchvision:mobilenet_v2")


@pytest.mark.parametrize(
    "name, message",
    [
        ("torchvision:resnet8", "unknown model 'resnet8' in torchvision.*'resnet"),
        ("timm:resnet1", "unknown model 'resnet1' in timm.*'resnet"),
        ("tim:resnet18", "unknown model 'tim:resnet18' .* timm:NAME, torchvision:NAME"),
        ("timm:", "unknown model 'timm:'"),
    ],
)
def test_an_unknown_name_is_told_with_near_ones(name, message):
    with pytest.raises(UserError, match=message) as caught:
        build_model(name, K)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


REFUSED = {  # what a library's MobileNetV2 cannot learn from a library's resnet18, and why
    "FSP": "FSP needs equal channels",
    "KDSVD": "needs equal channels",
    "NORM": "maps_through",
    "OFD": "get_bn_before_relu",
    "SIMKD": "does not let go",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_method_steps_with_libraries_models_or_says_why_not(case: Case, monkeypatch):
    monkeypatch.setattr(loop, "SIZE", 64)  # the last map of 16x16 images is one pixel
    pair = "torchvision:resnet18/torchvision:mobilenet_v2"
    if case.name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[case.name]):
            loop.build(case, pair=pair)
        return
    distiller = loop.build(case, pair=pair)
    cfg = loop.config(case)
    n = cfg.SOLVER.BATCH_SIZE if distiller.needs_constant_batch else 4
    steps = loop.Loop(distiller, distiller.phases(cfg), n=n, size=64)
    for phase in steps.phases:
        steps.enter(phase)
        for number in range(2):
            assert torch.isfinite(steps.step(number))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["KD", "DKD", "CRD", "RKD"])
def test_a_transformer_teaches_a_convolutional_student(method, monkeypatch):
    case = next(case for case in CASES if case.name == method)
    monkeypatch.setattr(loop, "calibrate", nn.Module.eval)  # it has no norm of a batch
    distiller = loop.build(case, pair=f"{VIT}/timm:mobilenetv3_small_050")
    steps = loop.Loop(distiller, distiller.phases(loop.config(case)), n=2, size=224)
    steps.enter(steps.phases[0])
    assert torch.isfinite(steps.step(0))


@pytest.mark.parametrize("fusion", ["gate", "concat", "residual"])
def test_sdkds_proxy_starts_as_the_student_whatever_the_library(fusion):
    overrides = {"SDKD.FUSION": fusion, "SDKD.LOSS.FEAT_WEIGHT": 1.0}
    for student in ("timm:mobilenetv1_100", RESNET):
        distiller = loop.build(Case("SDKD", overrides), pair=f"timm:resnet18/{student}")
        distiller.train()
        seen = {}
        distiller.proxy.model.register_forward_hook(lambda m, x, y, seen=seen: seen.update(p=y))
        _, losses = distiller(image=images(), target=torch.tensor([1, 2]), epoch=1)
        sum(losses.values()).backward()
        moved = [p.grad.abs().sum() > 0 for p in distiller.proxy.parameters()]
        assert any(moved) if fusion == "residual" else all(moved)  # its last norm starts at 0
        if fusion == "residual":  # f_k = p_k until its last norm has learnt
            torch.testing.assert_close(seen["p"][0], distiller.student(images())[0])
        maps = seen["p"][1]["feats"]
        assert [x.shape for x in maps[1:]] == [
            x.shape for x in distiller.student(images())[1]["feats"][1:]
        ]


def test_timm_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=re.escape("pip install 'sdkd-plugin[timm]'")):
        MODELS["timm:resnet18"]

"""The taps of WRN: pre-activations without a second run of a norm, and nothing left behind."""

import copy
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from support.oracles import fill, formula
from torch import Tensor, nn

from sdkd_plugin.models import build_model
from sdkd_plugin.models.wrn import PreactBlock

IMAGE = formula((4, 3, 16, 16), "image")


@pytest.fixture
def net() -> nn.Module:
    return fill(build_model("wrn_16_2", 10))


def test_preactivation_is_the_next_norm_of_the_raw_sum(net: nn.Module):
    """Against the norm's formula: batch statistics while training, running ones in eval."""
    for training in (True, False):
        net.train(training)
        norms = net.get_bn_before_relu()
        # before the step moves them
        running = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
        feats = net(IMAGE)[1]
        for k, (norm, (mean, var)) in enumerate(zip(norms, running, strict=True), start=1):
            x = feats["feats"][k]
            if training:
                mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            scale = norm.weight / (var + norm.eps).sqrt()
            expected = (x - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
            torch.testing.assert_close(feats["preact_feats"][k], expected)
        torch.testing.assert_close(feats["head_in"], feats["preact_feats"][3].relu())


def test_each_norm_runs_once_per_forward(net: nn.Module):
    runs: dict[nn.Module, int] = {}
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            runs[module] = 0
            module.register_forward_hook(lambda norm, _, __: runs.update({norm: runs[norm] + 1}))
    net.train()(IMAGE)
    net.eval()(IMAGE)
    assert set(runs.values()) == {2}


def test_nothing_survives_the_forward(net: nn.Module):
    feats = net(IMAGE)[1]
    taps = [weakref.ref(preact) for preact in feats["preact_feats"]]
    del feats
    assert all(tap() is None for tap in taps), (
        "the net keeps a pre-activation, and with it the graph, alive"
    )
    assert all(block.tap is None for block in net.modules() if isinstance(block, PreactBlock))


def test_nothing_survives_a_failing_forward(net: nn.Module):
    net.block2.layer[1].conv1 = nn.Conv2d(1, 1, 1)  # refuses its input
    with pytest.raises(RuntimeError):
        net(IMAGE)
    assert all(block.tap is None for block in net.modules() if isinstance(block, PreactBlock))


def test_gradient_flows_through_the_taps(net: nn.Module):
    """A loss on a pre-activation trains what lies before it and the norm itself."""
    net(IMAGE)[1]["preact_feats"][1].square().mean().backward()
    norm = net.block2.layer[0].bn1
    assert norm.weight.grad.any() and net.conv1.weight.grad.any()
    assert net.block2.layer[0].conv1.weight.grad is None


class Skipped(nn.Module):
    """Stands for a stage that is left out, as before the first fused stage of SDKD's proxy."""

    def __init__(self, stage: nn.Module, out: Tensor):
        super().__init__()
        self.layer, self.out = stage.layer, out

    def forward(self, x: Tensor) -> Tensor:
        return self.out


@torch.no_grad()
def test_a_stage_may_be_left_out(net: nn.Module):
    net.eval()
    logits, feats = net(IMAGE)
    net.block2 = Skipped(net.block2, feats["feats"][2])
    logits_short, feats_short = net(IMAGE)
    assert torch.equal(logits_short, logits)
    assert all(
        torch.equal(a, b)
        for a, b in zip(feats_short["preact_feats"], feats["preact_feats"], strict=True)
    )


def replicate(net: nn.Module) -> nn.Module:
    """What DataParallel makes for another device: own attributes, parameters as plain tensors."""
    replicas = {module: module._replicate_for_data_parallel() for module in net.modules()}
    for module, replica in replicas.items():
        for key, child in module.named_children():
            setattr(replica, key, replicas[child])
        for key, parameter in module._parameters.items():  # a missing bias is listed, too
            setattr(replica, key, None if parameter is None else parameter.clone())
        for key, buffer in module.named_buffers(recurse=False):
            setattr(replica, key, buffer.clone())
    return replicas[net]


def test_replicas_in_threads_keep_their_taps_apart(net: nn.Module):
    inputs = [formula((2, 3, 16, 16), f"device{i}") for i in range(2)]
    alone = [copy.deepcopy(net)(x)[1]["preact_feats"] for x in inputs]
    replicas = [replicate(net) for _ in inputs]
    meet = threading.Barrier(2, timeout=30)
    for replica in replicas:  # both replicas listen at the same time
        replica.block2.layer[0].conv1 = Meeting(replica.block2.layer[0].conv1, meet)
    together: dict[int, list[Tensor]] = {}

    def work(i: int) -> None:
        together[i] = replicas[i](inputs[i])[1]["preact_feats"]

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in (0, 1):
        assert all(torch.allclose(a, b) for a, b in zip(together[i], alone[i], strict=True))


class Meeting(nn.Module):
    """Waits until the other thread has come as far."""

    def __init__(self, inner: nn.Module, barrier: threading.Barrier):
        super().__init__()
        self.inner, self.barrier = inner, barrier

    def forward(self, x: Tensor) -> Tensor:
        self.barrier.wait()
        return self.inner(x)


@torch.no_grad()
def test_activation_in_place_does_not_touch_the_raw_sum(net: nn.Module):
    feats = net.eval()(IMAGE)[1]
    assert all(feat.min() < 0 for feat in feats["feats"]) and all(
        preact.min() < 0 for preact in feats["preact_feats"]
    )
    # outside of the net's forward the stage works in place, on its own maps only
    out = net.block3(feats["feats"][2])
    torch.testing.assert_close(out, feats["feats"][3])
    torch.testing.assert_close(
        net.block3.layer[0].bn1(feats["feats"][2]).relu(), F.relu(feats["preact_feats"][2])
    )

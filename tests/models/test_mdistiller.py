"""The zoo against a real mdistiller checkout: MDISTILLER_ROOT=<folder> pytest tests/models."""

import importlib
import os

import pytest
import torch
import torch.nn.functional as F
from support.oracles import load
from torch import Tensor, nn

from sdkd_plugin.models import PUBLISHED_TEACHERS, build_model, teacher_checkpoint

NAMES = sorted(load("zoo")["models"])


@pytest.fixture(scope="module")
def upstream() -> dict:
    """mdistiller's own name -> (constructor, checkpoint)."""
    root = os.environ.get("MDISTILLER_ROOT")
    if not root:
        pytest.skip(
            "MDISTILLER_ROOT is not set: THE ZOO IS NOT COMPARED WITH A REAL mdistiller, "
            "only with recorded numbers"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        return importlib.import_module("mdistiller.models.cifar").cifar_model_dict


def both(
    upstream: dict, name: str, seed: int, size: int = 32
) -> tuple[nn.Module, nn.Module, Tensor]:
    """Ours and theirs with the same random weights and used norms, and a batch."""
    torch.manual_seed(seed)
    ours, theirs = build_model(name, 100), upstream[name][0](num_classes=100)
    image = torch.randn(8, 3, size, size)
    with torch.no_grad():
        ours(image)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs, image


def assert_close(actual: Tensor, expected: Tensor, rel: float) -> None:
    assert (actual - expected).norm() <= rel * expected.norm()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
@torch.no_grad()
def test_eval_outputs(upstream: dict, name: str, seed: int):
    ours, theirs, image = both(upstream, name, seed)
    logits, feats = ours.eval()(image)
    logits_upstream, feats_upstream = theirs.eval()(image)
    assert_close(logits, logits_upstream, 1e-5)
    for key in ("feats", "preact_feats"):
        if key == "preact_feats" and name == "MobileNetV2":
            continue  # upstream has none
        for k, (feat, feat_upstream) in enumerate(
            zip(feats[key], feats_upstream[key], strict=True)
        ):
            unshuffled = name == "ShuffleV2" and key == "preact_feats" and k > 0
            assert_close(
                feat, F.channel_shuffle(feat_upstream, 2) if unshuffled else feat_upstream, 1e-5
            )
    assert_close(feats["pooled_feat"], feats_upstream["pooled_feat"], 1e-5)


@pytest.mark.parametrize("name", ["vgg8", "ResNet18"])
@torch.no_grad()
def test_eval_logits_at_64_pixels(upstream: dict, name: str):
    """The families that take 64 pixels there, too."""
    ours, theirs, image = both(upstream, name, 0, size=64)
    assert_close(ours.eval()(image)[0], theirs.eval()(image)[0], 1e-5)


def test_published_teachers_and_their_files(upstream: dict):
    files = {name: path for name, (_, path) in upstream.items() if path}
    assert set(files) == set(PUBLISHED_TEACHERS)
    assert all(path.endswith(teacher_checkpoint(name)) for name, path in files.items())


@pytest.mark.parametrize("name", NAMES)
def test_train_gradients(upstream: dict, name: str):
    ours, theirs, image = (x.double() for x in both(upstream, name, 0))
    for net in (ours, theirs):
        net.train()(image)[0].square().sum().backward()
    gradients = {key: p.grad for key, p in theirs.named_parameters()}
    scale = max(gradient.norm() for gradient in gradients.values())
    for key, parameter in ours.named_parameters():
        # a convolution's bias before a norm has no gradient but rounding: compare it on the scale
        # of the largest
        assert (parameter.grad - gradients[key]).norm() <= 1e-9 * gradients[
            key
        ].norm() + 1e-13 * scale, key


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_initial_spread(upstream: dict, name: str):
    """Each large weight starts with the same standard deviation on both sides.

    That is, within five standard errors of two samples.
    """
    torch.manual_seed(0)
    ours, theirs = (
        build_model(name, 100).state_dict(),
        upstream[name][0](num_classes=100).state_dict(),
    )
    for key, weight in theirs.items():
        if weight.ndim > 1:
            assert abs(ours[key].std() / weight.std() - 1) < 5 / weight.numel() ** 0.5, key
        elif weight.is_floating_point():
            assert (weight.std() == 0) == (ours[key].std() == 0), key

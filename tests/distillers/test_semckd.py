"""SemCKD: attention, distances and their weighted sum against slow versions.

The batch size is built in.
"""

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.semckd import SemCKD, attended_loss, attention_weights, gram, same_size
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

B = 8
TARGET = torch.arange(B)


def build(*words: str, pair: str = "resnet14/resnet8") -> SemCKD:
    teacher, student = pair.split("/")
    with torch_seeded(0, "nets"):
        cfg = load_config(None, ["DISTILLER.TYPE", "SEMCKD", "SOLVER.BATCH_SIZE", str(B), *words])
        return SemCKD(build_model(student, 10), build_model(teacher, 10), cfg).train()


def test_hand_computed():
    # one sample, two student and two teacher stages: (1/4 * 4 + 3/4 * 8) and (1 * 2), averaged over
    # the student's stages
    distances = torch.tensor([[[4.0, 8.0], [2.0, 9.0]]])
    attention = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    assert attended_loss(distances, attention).item() == (7 + 2) / 2


def test_equal_keys_attend_to_all_stages_alike_and_soft_sharpens():
    queries, keys = formula((B, 3, 5), "q"), formula((B, 1, 5), "k").expand(B, 4, 5)
    torch.testing.assert_close(
        attention_weights(queries, keys, 1.0), torch.full((B, 3, 4), 0.25).double()
    )
    keys = formula((B, 4, 5), "k")
    best = (queries @ keys.transpose(1, 2)).argmax(2)
    sharp = attention_weights(queries, keys, 1e-4)
    torch.testing.assert_close(sharp, F.one_hot(best, 4).double(), atol=1e-3, rtol=0)


def test_with_equal_attention_the_loss_is_the_plain_mean_with_its_gradient():
    distances = formula((B, 2, 4), "d").abs().requires_grad_()
    loss = attended_loss(distances, torch.full((B, 2, 4), 0.25).double())
    assert loss.item() == pytest.approx(distances.mean().item(), rel=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(loss, distances)[0], torch.full((B, 2, 4), 1 / (B * 8)).double()
    )


def test_gradient_is_that_of_finite_differences():
    distances, queries, keys = (
        formula((3, n, 4), key).requires_grad_() for n, key in ((2, "d"), (2, "q"), (4, "k"))
    )
    assert torch.autograd.gradcheck(
        lambda d, q, k: attended_loss(d, attention_weights(q, k, 0.5)), (distances, queries, keys)
    )
    assert torch.autograd.gradcheck(gram, formula((3, 2, 2, 2), "f").requires_grad_())


def slow_embedding(embed, matrix: Tensor) -> Tensor:
    hidden = (matrix @ embed[0].weight.T + embed[0].bias).clamp(min=0) @ embed[2].weight.T + embed[
        2
    ].bias
    return hidden / hidden.square().sum(1, keepdim=True).sqrt()


def slow_norm(x: Tensor, norm) -> Tensor:
    x = (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), unbiased=False, keepdim=True) + norm.eps
    ).sqrt()
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


# the last pools the student
@pytest.mark.parametrize("pair", ["resnet14/resnet8", "wrn_16_2/wrn_16_1", "MobileNetV2/resnet8"])
def test_one_step_equals_the_definition(pair):
    weights = ("SEMCKD.FEAT_WEIGHT", "3.0", "SEMCKD.KD_WEIGHT", "0.5", "SEMCKD.CE_WEIGHT", "2.0")
    distiller = build(*weights, "SEMCKD.SOFT", "0.3", "SEMCKD.TAU", "2.0", pair=pair).double()
    image = formula((B, 3, 16, 16), "image")
    z_s, feats = distiller.student(image)
    z_t, goals = distiller.teacher(image)
    own, theirs, a = feats["feats"][1:], goals["feats"][1:], distiller.attention
    queries, keys = (
        [
            slow_embedding(embed, torch.einsum("nchw,mchw->nm", m, m))
            for embed, m in zip(embeds, maps, strict=True)
        ]
        for embeds, maps in ((a.queries, own), (a.keys, theirs))
    )
    loss = 0.0
    for s, feat in enumerate(own):
        energies = torch.stack([(queries[s] * key).sum(1) / 0.3 for key in keys]).exp()
        for t, goal in enumerate(theirs):
            side = min(feat.shape[2], goal.shape[2])
            x, y = (
                m.unflatten(2, (side, -1)).unflatten(4, (side, -1)).mean((3, 5))
                for m in (feat, goal)
            )
            conv1, norm1, _, conv2, norm2, _, conv3 = a.regressors[s][t]
            x = slow_norm(F.conv2d(x, conv1.weight), norm1).clamp(min=0)
            x = F.conv2d(
                slow_norm(F.conv2d(x, conv2.weight, padding=1), norm2).clamp(min=0), conv3.weight
            )
            for b in range(B):
                weight = energies[t][b] / energies[:, b].sum()
                loss = loss + weight * (x - y)[b].square().mean() / (B * len(own))
    p, q = (z_t / 2).softmax(1), (z_s / 2).softmax(1)
    kd = 4 * (p * (p / q).log()).sum() / B
    logits, losses = distiller(image=image, target=TARGET)
    assert losses["loss_kd"].item() == pytest.approx((3 * loss + 0.5 * kd).item(), rel=1e-9)
    assert losses["loss_ce"].item() == pytest.approx(
        2 * F.cross_entropy(z_s, TARGET).item(), rel=1e-12
    )
    assert torch.equal(logits, z_s)


def test_the_attention_sends_its_gradient_into_the_student():
    feats = [formula((B, 2, 4, 4), f"f{i}").float().requires_grad_() for i in range(3)]
    attention = build().attention
    queries = torch.stack(
        [embed(gram(f)) for embed, f in zip(attention.queries, feats, strict=True)], 1
    )
    weights = attention_weights(queries, formula((B, 3, 2), "k").float(), 1.0)
    assert all(
        gradient.abs().max() > 0 for gradient in torch.autograd.grad(weights[:, :, 0].sum(), feats)
    )


def test_the_larger_map_is_averaged():
    small, large = formula((2, 3, 4, 4), "s"), formula((2, 3, 8, 8), "l")
    pooled = large.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    torch.testing.assert_close(same_size(large, small)[0], pooled)
    torch.testing.assert_close(same_size(small, large)[1], pooled)
    assert same_size(small, small)[0] is small


def test_large_logits_and_constant_images_stay_finite():
    distiller = build()
    with torch.no_grad():
        distiller.teacher.fc.weight.mul_(1e4)
        distiller.attention.keys[0][2].weight.zero_()
        distiller.attention.keys[0][2].bias.zero_()  # a zero vector has no direction
    _, losses = distiller(image=torch.ones(B, 3, 8, 8), target=TARGET)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in distiller.get_learnable_parameters())


def test_a_batch_of_another_size_trains_by_cross_entropy_alone():
    distiller = build()
    logits, losses = distiller(image=formula((B - 1, 3, 8, 8), "image").float(), target=TARGET[:-1])
    assert losses.keys() == {"loss_ce"}
    assert losses["loss_ce"].item() == pytest.approx(
        F.cross_entropy(logits, TARGET[:-1]).item(), rel=1e-6
    )
    assert SemCKD.needs_constant_batch


def test_layers_follow_from_the_batch_size_and_the_networks():
    distiller = build("SEMCKD.FACTOR", "2", pair="resnet8x4/resnet8")
    first, _, last = distiller.attention.queries[0]
    assert (first.in_features, first.out_features, last.out_features) == (B, 8, 4)
    widths = [[path[0].out_channels for path in row] for row in distiller.attention.regressors]
    assert widths == [[128, 256, 512]] * 3


@pytest.mark.parametrize("key, value", [("SOFT", "0.0"), ("FACTOR", "0"), ("FACTOR", "9")])
def test_meaningless_settings_are_refused(key, value):
    with pytest.raises(UserError, match=f"SEMCKD.{key} is {value}; allowed"):
        build(f"SEMCKD.{key}", value)

"""SDD's regions and their weights: by hand, an independent version, DKD and KD as limits."""

import math

import pytest
import torch
from cases import CASES
from support.loop import build
from support.oracles import formula
from torch import Tensor, nn

from sdkd_plugin.config import configs_folder, load_config, scaled_config
from sdkd_plugin.distillers.dkd import dkd_terms
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.sdd import (
    SDD,
    complementary,
    dkd_rows,
    kd_rows,
    region_logits,
    sdd_parts,
)
from sdkd_plugin.errors import UserError

N, K, D = 3, 7, 4
SCALES = [1, 2, 4]
CASE = next(case for case in CASES if case.name == "SDD")
FEAT, FEAT_T = formula((N, D, 8, 8), "feat_s"), 3 * formula((N, D, 8, 8), "feat_t")
TARGET = torch.tensor([6, 0, 3])


def head(name: str, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(D, K, bias=bias).double()
    with torch.no_grad():
        layer.weight.copy_(4 * formula((K, D), f"weight {name}"))
        if bias:
            layer.bias.copy_(formula((K,), f"bias {name}"))
    return layer


HEAD, HEAD_T = head("s"), head("t")
STUDENT, TEACHER = (
    region_logits(feat, layer, SCALES).detach() for feat, layer in ((FEAT, HEAD), (FEAT_T, HEAD_T))
)


def slow_logits(feat: Tensor, layer: nn.Linear, scales: list[int]) -> list:
    """[n][r][k], one number at a time."""
    rows, bias = layer.weight.tolist(), layer.bias.tolist()
    said = []
    for image in feat.tolist():
        regions = []
        for m in scales:
            size = len(image[0]) // m
            for a in range(m):
                for b in range(m):
                    cell = [
                        sum(
                            channel[a * size + i][b * size + j]
                            for i in range(size)
                            for j in range(size)
                        )
                        / size**2
                        for channel in image
                    ]
                    regions.append(
                        [
                            sum(w * x for w, x in zip(row, cell, strict=True)) + shift
                            for row, shift in zip(rows, bias, strict=True)
                        ]
                    )
        said.append(regions)
    return said


def softmax(values: list[float], tau: float) -> list[float]:
    powers = [math.exp(value / tau) for value in values]
    return [power / sum(powers) for power in powers]


def kl(q: list[float], p: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))


def slow_loss(student: list, teacher: list, loss: str, beta: float, tau: float) -> float:
    """The weighted mean over all regions, one region at a time."""
    total, count = 0.0, 0
    for regions_s, regions_t, y in zip(student, teacher, TARGET.tolist(), strict=True):
        whole_right = max(range(K), key=regions_t[0].__getitem__) == y
        for s, t in zip(regions_s, regions_t, strict=True):
            right = max(range(K), key=t.__getitem__) == y
            p, q = softmax(s, tau), softmax(t, tau)
            if loss == "kd":
                value = tau**2 * kl(q, p)
            else:
                pair_q, pair_p = [q[y], 1 - q[y]], [p[y], 1 - p[y]]
                rest = [j for j in range(K) if j != y]
                others = [softmax([z[j] for j in rest], tau) for z in (t, s)]
                value = tau**2 * (kl(pair_q, pair_p) + beta * kl(*others))
            total += (2.0 if right != whole_right else 1.0) * value
            count += 1
    return total / count


def weights(**values: float):
    words = [word for key, v in values.items() for word in (f"SDD.DKD.{key}", str(v))]
    return load_config(None, words).SDD.DKD


def test_the_regions_equal_an_independent_version():
    for logits, feat, layer in ((STUDENT, FEAT, HEAD), (TEACHER, FEAT_T, HEAD_T)):
        assert logits.shape == (N, 21, K)
        slow = torch.tensor(slow_logits(feat, layer, SCALES), dtype=torch.float64)
        torch.testing.assert_close(logits, slow, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("loss", ["kd", "dkd"])
def test_the_loss_equals_an_independent_version(loss):
    rows = kd_rows(STUDENT, TEACHER, 4.0)
    if loss == "dkd":
        rows = dkd_rows(STUDENT, TEACHER, TARGET, weights(BETA=2.0))
    others = complementary(TEACHER, TARGET)
    assert others.any() and not others.all(), "the comparison is about both kinds"
    consistent, complement = sdd_parts(rows, others)
    slow = [slow_logits(*each, SCALES) for each in ((FEAT, HEAD), (FEAT_T, HEAD_T))]
    assert (consistent + 2 * complement).item() == pytest.approx(
        slow_loss(*slow, loss, 2.0, 4.0), rel=1e-10
    )
    assert (consistent + complement).item() == pytest.approx(rows.mean().item(), rel=1e-12)


def test_hand_computed():
    # a map of 2x2 pixels and one channel, two classes with logits (x, 1)
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [0.0]]))
        layer.bias.copy_(torch.tensor([0.0, 1.0]))
    feat = torch.tensor([[[[0.0, 4.0], [2.0, 0.0]]]])
    logits = region_logits(feat, layer, [1, 2])
    assert logits.tolist() == [[[1.5, 1], [0, 1], [4, 1], [2, 1], [0, 1]]]
    # of class 0 the whole, and the second and third region, are right; of class 1 the others
    wanted = [[False, True, False, False, True]]
    assert complementary(logits, torch.tensor([0])).tolist() == wanted
    assert complementary(logits, torch.tensor([1])).tolist() == wanted
    rows = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    parts = sdd_parts(rows, torch.tensor(wanted))
    assert [part.item() for part in parts] == pytest.approx([8 / 5, 7 / 5])


def test_rows_of_kd_by_hand():
    teacher = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    student = torch.tensor([[0.25, 0.75], [0.25, 0.75]]).log()
    expected = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.0]
    assert kd_rows(student, teacher, 1.0).tolist() == pytest.approx(expected, abs=1e-7)


def test_of_the_whole_image_alone_it_is_dkd_and_kd():
    feat = FEAT.clone().requires_grad_()
    ours = region_logits(feat, HEAD, [1])
    plain = feat.mean((2, 3)) @ HEAD.weight.T + HEAD.bias
    teacher = TEACHER[:, :1]
    rows = dkd_rows(ours, teacher, TARGET, weights(ALPHA=3.0, BETA=2.0))
    tckd, nckd = dkd_terms(plain, teacher[:, 0], TARGET, 4.0)
    pairs = [
        (rows.mean(), 3 * tckd + 2 * nckd),
        (kd_rows(ours, teacher, 4.0).mean(), kd_loss(plain, teacher[:, 0], 4.0)),
    ]
    for own, other in pairs:
        assert own.item() == pytest.approx(other.item(), rel=1e-12)
        one, two = (torch.autograd.grad(each, feat, retain_graph=True)[0] for each in (own, other))
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-14)


def test_a_network_without_regions_of_its_own_repeats_its_pixel():
    feat = formula((N, D, 1, 1), "one")
    logits = region_logits(feat, HEAD, SCALES)
    assert (logits - logits[:, :1]).abs().max() < 1e-14
    without = region_logits(feat, head("s", bias=False), [1])
    torch.testing.assert_close(without + HEAD.bias, logits[:, :1])


def test_gradient_is_that_of_finite_differences():
    feat = formula((2, 3, 4, 4), "g").requires_grad_()
    weight = formula((4, 3), "w").requires_grad_()
    teacher = formula((2, 5, 4), "t")
    node = weights(BETA=2.0)
    target = torch.tensor([0, 3])

    def loss(f: Tensor, w: Tensor) -> Tensor:
        layer = nn.Linear(3, 4, bias=False).double()
        del layer.weight
        layer.weight = w
        rows = dkd_rows(region_logits(f, layer, [1, 2]), teacher, target, node)
        consistent, complement = sdd_parts(rows, complementary(teacher, target))
        return consistent + 2 * complement

    assert torch.autograd.gradcheck(loss, (feat, weight))


def test_a_logit_gap_of_500_stays_finite():
    student = torch.tensor([[[500.0, 0.0, 0.0]]], requires_grad=True)
    teacher = torch.tensor([[[0.0, 500.0, 0.0]]])
    for rows in (
        kd_rows(student, teacher, 1.0),
        dkd_rows(student, teacher, torch.tensor([0]), weights(TAU=1.0)),
    ):
        (gradient,) = torch.autograd.grad(rows.sum(), student)
        assert torch.isfinite(rows).all() and rows.item() >= 499 and torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype):
    layer = head("s").float()
    half = region_logits(FEAT.to(dtype), layer, SCALES)
    assert half.dtype == torch.float32
    assert torch.equal(half, region_logits(FEAT.to(dtype).float(), layer, SCALES))
    assert kd_rows(half.to(dtype), half.to(dtype), 4.0).dtype == torch.float32


@pytest.mark.parametrize("loss", ["kd", "dkd"])
def test_the_distiller_weighs_its_regions_and_warms_up_dkd_alone(loss):
    words = (
        f"DISTILLER.TYPE SDD SDD.LOSS {loss} SDD.M [1,2] SDD.COMPLEMENTARY_WEIGHT 3 "
        "SDD.KD.CE_WEIGHT 0.25 SDD.KD.KD_WEIGHT 0.5 SDD.KD.TAU 3 SDD.DKD.CE_WEIGHT 0.5 "
        "SDD.DKD.ALPHA 2 SDD.DKD.BETA 4 SDD.DKD.TAU 2 SOLVER.EPOCHS 30 SOLVER.SCHEDULE_EPOCHS 240"
    )
    cfg = scaled_config(load_config(None, words.split()))
    assert cfg.SDD.DKD.WARMUP == 2.5
    other = build(CASE).double()
    distiller = SDD(other.student, other.teacher, cfg).eval()
    image, target = formula((4, 3, 16, 16), "image"), torch.tensor([0, 3, 9, 5])
    (logits, feats), (_, feats_t) = (net(image) for net in (distiller.student, distiller.teacher))
    student = region_logits(feats["head_in"], distiller.student.fc, [1, 2])
    teacher = region_logits(feats_t["head_in"], distiller.teacher.fc, [1, 2])
    torch.testing.assert_close(student[:, 0], logits)
    rows = 0.5 * kd_rows(student, teacher, 3.0)
    if loss == "dkd":
        rows = dkd_rows(student, teacher, target, cfg.SDD.DKD)
    parts = [part.item() for part in sdd_parts(rows, complementary(teacher, target))]
    for epoch, factor in ((1, 0.4), (2, 0.8), (3, 1.0)):
        factor = factor if loss == "dkd" else 1.0
        _, losses = distiller.forward_train(image=image, target=target, epoch=epoch)
        assert losses["loss_kd"].item() == pytest.approx(
            factor * (parts[0] + 3 * parts[1]), rel=1e-9
        )
        assert list(distiller.terms) == ["sdd_consistent", "sdd_complementary"]
        found = [term.item() for term in distiller.terms.values()]
        assert found == pytest.approx([factor * part for part in parts], rel=1e-9)
    own = -logits.log_softmax(1)[torch.arange(4), target].mean().item()
    assert losses["loss_ce"].item() == pytest.approx((0.25 if loss == "kd" else 0.5) * own)
    sum(losses.values()).backward()
    assert distiller.student.fc.weight.grad is not None
    assert distiller.teacher.fc.weight.grad is None


@pytest.mark.parametrize(
    "pair", sorted(p.stem for p in (configs_folder() / "cifar100/dkd").glob("*"))
)
def test_the_files_have_the_authors_values(pair):
    node = load_config(configs_folder() / "cifar100" / "sdd" / f"{pair}.yaml").SDD
    dkd = load_config(configs_folder() / "cifar100" / "dkd" / f"{pair}.yaml").DKD
    families = ("res50_mv2", "res32x4_shuv1", "res32x4_shuv2")
    families += ("vgg13_mv2", "res50_vgg8", "wrn40_2_shuv1")
    assert node.LOSS == "dkd" and node.M == ([1, 2, 4] if pair in families else [1, 2])
    assert node.DKD.BETA == dkd.BETA


@pytest.mark.parametrize("m", ["[]", "[2, 4]", "[1, 1]", "[1, 0]", "[1, 65]", "[1, 2.5]"])
def test_scales_that_mean_nothing_are_refused(m):
    with pytest.raises(UserError, match=r"SDD.M is .*; allowed: whole numbers from 1 to 64"):
        load_config(None, ["DISTILLER.TYPE", "SDD", "SDD.M", m])


@pytest.mark.parametrize(
    "key, value", [("DKD.TAU", 0), ("KD.TAU", 0), ("COMPLEMENTARY_WEIGHT", -1)]
)
def test_config_values_that_mean_nothing_are_refused(key, value):
    with pytest.raises(UserError, match=rf"SDD.{key} is {value}(.0)?; allowed: "):
        load_config(None, ["DISTILLER.TYPE", "SDD", f"SDD.{key}", str(value)])
    with pytest.raises(UserError, match="unknown loss 'nkd' in SDD.LOSS"):
        load_config(None, ["DISTILLER.TYPE", "SDD", "SDD.LOSS", "nkd"])


def test_two_classes_and_labels_that_are_none_are_refused():
    with pytest.raises(UserError, match="SDD got logits for 2 classes; allowed: 3 or more"):
        dkd_rows(STUDENT[..., :2], TEACHER[..., :2], TARGET % 2, weights())
    with pytest.raises(UserError, match="SDD got targets from 7 to 13; allowed: class numbers"):
        dkd_rows(STUDENT, TEACHER, TARGET + 7, weights())

"""CAT-KD's maps and their distance: by hand, an independent version, logits as a limit."""

import math

import pytest
import torch
from cases import CASES
from support.loop import build, config
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import configs_folder, load_config
from sdkd_plugin.distillers.cat_kd import cat_loss, class_maps
from sdkd_plugin.errors import UserError

N, K, D = 3, 5, 4
FEAT, FEAT_T = formula((N, D, 6, 6), "feat_s"), formula((N, 2 * D, 8, 8), "feat_t")
WEIGHT, WEIGHT_T = formula((K, D), "weight_s"), formula((K, 2 * D), "weight_t")
CASE = next(case for case in CASES if case.name == "CAT_KD")


def slow_maps(feat: Tensor, weight: Tensor) -> list:
    """[n][k][i][j], one number at a time."""
    n, d, h, w = feat.shape
    f, rows = feat.tolist(), weight.tolist()
    return [
        [
            [[sum(row[c] * f[m][c][i][j] for c in range(d)) for j in range(w)] for i in range(h)]
            for row in rows
        ]
        for m in range(n)
    ]


def cells(image: list, resolution: int) -> list[float]:
    """Averages over the cells of an image whose size is a multiple of the resolution."""
    size = len(image) // resolution
    return [
        sum(image[a * size + i][b * size + j] for i in range(size) for j in range(size)) / size**2
        for a in range(resolution)
        for b in range(resolution)
    ]


def unit(values: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def slow_loss(student: list, teacher: list, resolution: int, normalize: bool) -> float:
    squares = []
    for maps_s, maps_t in zip(student, teacher, strict=True):
        for map_s, map_t in zip(maps_s, maps_t, strict=True):
            pair = [cells(each, resolution) for each in (map_s, map_t)]
            s, t = map(unit, pair) if normalize else pair
            squares += [(a - b) ** 2 for a, b in zip(s, t, strict=True)]
    return sum(squares) / len(squares)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("resolution", [1, 2])
def test_it_equals_an_independent_version(resolution, normalize):
    maps = [class_maps(FEAT, WEIGHT), class_maps(FEAT_T, WEIGHT_T)]
    slow = [slow_maps(FEAT, WEIGHT), slow_maps(FEAT_T, WEIGHT_T)]
    assert cat_loss(*maps, resolution, normalize).item() == pytest.approx(
        slow_loss(*slow, resolution, normalize), rel=1e-12
    )


def test_hand_computed():
    # one image, two classes; W = ((1, 0), (0, 2)); maps of 1x2 pixels, two cells a row, two rows
    # alike
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    feat = torch.tensor([[[[3.0, 4.0]], [[0.0, 1.0]]]])
    maps = class_maps(feat, weight)
    assert maps.tolist() == [[[[3.0, 4.0]], [[0.0, 2.0]]]]
    other = torch.tensor([[[[4.0, 3.0]], [[0.0, 1.0]]]])
    # (1 + 1 + 0 + 1) / 4, whether the rows are repeated or not
    assert cat_loss(maps, other, 2, False).item() == 0.75
    # lengths 5 sqrt 2 twice, and the second class's directions are equal
    assert cat_loss(maps, other, 2, True).item() == pytest.approx((4 / 50) / 8, rel=1e-6)
    assert cat_loss(maps, other, 1, False).item() == pytest.approx((0.5**2) / 2)


def test_at_resolution_1_it_is_the_distance_of_the_logits_without_bias():
    student = FEAT.clone().requires_grad_()
    weight = WEIGHT.clone().requires_grad_()
    ours = cat_loss(class_maps(student, weight), class_maps(FEAT_T, WEIGHT_T), 1, False)
    logits = student.mean((2, 3)) @ weight.T
    theirs = (logits - FEAT_T.mean((2, 3)) @ WEIGHT_T.T).square().mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for one, two in zip(
        torch.autograd.grad(ours, (student, weight)),
        torch.autograd.grad(theirs, (student, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-14)


def test_equal_maps_have_no_distance_and_give_no_gradient():
    maps = class_maps(FEAT, WEIGHT).requires_grad_()
    for normalize in (False, True):
        loss = cat_loss(maps, maps.detach(), 2, normalize)
        (gradient,) = torch.autograd.grad(loss, maps)
        assert loss.item() == 0 and gradient.abs().max() == 0


def test_normalised_maps_know_no_size_and_are_at_most_2_apart():
    maps, other = class_maps(FEAT, WEIGHT), class_maps(FEAT_T, WEIGHT_T)
    expected = cat_loss(maps, other, 2, True).item()
    assert cat_loss(1000 * maps, 0.5 * other, 2, True).item() == pytest.approx(expected, rel=1e-12)
    assert cat_loss(maps, -maps, 2, True).item() == pytest.approx(4 / 2**2, rel=1e-12)
    dead = torch.zeros_like(maps).requires_grad_()
    (gradient,) = torch.autograd.grad(cat_loss(dead, other, 2, True), dead)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("normalize", [False, True])
def test_gradient_is_that_of_finite_differences(normalize):
    feat, weight = (formula(shape, "g").requires_grad_() for shape in ((2, 3, 4, 4), (3, 3)))
    other = formula((2, 3, 2, 2), "o").requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f, w, t: cat_loss(class_maps(f, w), t, 2, normalize), (feat, weight, other)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype):
    feat = 100 * FEAT.to(dtype)
    maps = class_maps(feat, WEIGHT.float())
    assert maps.dtype == torch.float32
    assert torch.equal(maps, class_maps(feat.float(), WEIGHT.float()))
    assert cat_loss(maps.to(dtype), maps.to(dtype), 2, False).dtype == torch.float32


def test_the_distiller_compares_what_its_networks_would_say_at_each_place():
    """Its maps, averaged and with the bias, are the logits of both networks."""
    distiller = build(CASE).double().train()
    image = formula((4, 3, 16, 16), "image")
    target = torch.tensor([0, 3, 9, 5])
    logits, losses = distiller(image=image, target=target)
    maps = []
    for network in (distiller.student, distiller.teacher):
        network.eval() if network is distiller.teacher else network.train()
        said, feats = network(image)
        whole = class_maps(feats["head_in"], network.fc.weight)
        torch.testing.assert_close(whole.mean((2, 3)) + network.fc.bias, said)
        maps.append(whole)
    cat = cat_loss(*maps, 2, True)
    node = config(CASE).CAT_KD
    assert losses["loss_kd"].item() == pytest.approx(node.BETA * cat.item(), rel=1e-9)
    assert distiller.terms["cat"].item() == pytest.approx(cat.item(), rel=1e-9)
    own = -logits.log_softmax(1)[torch.arange(4), target].mean().item()
    assert losses["loss_ce"].item() == pytest.approx(own, rel=1e-12)
    sum(losses.values()).backward()
    assert distiller.student.fc.weight.grad is not None
    assert distiller.teacher.fc.weight.grad is None


AUTHORS = {  # beta, cells, normalised
    "res56_res20": (0.7, 2, False),
    "res110_res32": (1.8, 2, False),
    "wrn40_2_wrn16_2": (12.0, 2, False),
    "wrn40_2_wrn40_1": (1.5, 2, False),
    "res32x4_res8x4": (15.0, 2, False),
    "vgg13_vgg8": (4.5, 2, False),
    "res50_mv2": (40.0, 2, True),
    "res32x4_shuv1": (600.0, 4, True),
    "res32x4_shuv2": (600.0, 4, True),
    "vgg13_mv2": (15.0, 2, True),
    "wrn40_2_shuv1": (80.0, 4, True),
    "res110_res20": (0.7, 2, False),  # ours
    "res50_vgg8": (40.0, 2, True),  # ours
}


@pytest.mark.parametrize("pair", AUTHORS)
def test_the_files_have_the_authors_values(pair):
    node = load_config(configs_folder() / "cifar100" / "cat_kd" / f"{pair}.yaml").CAT_KD
    assert (node.BETA, node.RESOLUTION, node.NORMALIZE) == AUTHORS[pair]
    assert node.CE_WEIGHT == 1.0


def test_other_classes_and_no_cells_are_refused():
    maps = class_maps(FEAT, WEIGHT)
    with pytest.raises(UserError, match=r"CAT-KD got class maps of shapes .*; both must be \[N, K"):
        cat_loss(maps, maps[:, :4], 2, False)
    with pytest.raises(UserError, match="CAT-KD's resolution is 0; allowed: 1 or more"):
        cat_loss(maps, maps, 0, False)


@pytest.mark.parametrize("key, value", [("RESOLUTION", 0), ("RESOLUTION", 65), ("BETA", -1)])
def test_config_values_that_mean_nothing_are_refused(key, value):
    with pytest.raises(UserError, match=rf"CAT_KD.{key} is {value}(.0)?; allowed: "):
        load_config(None, ["DISTILLER.TYPE", "CAT_KD", f"CAT_KD.{key}", str(value)])

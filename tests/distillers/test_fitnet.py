"""FitNet's loss by hand and against a slow version; the regressor for every size.

Extremes, refusals.
"""

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.fitnet import FitNet, fitnet_loss, regressor
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

SHAPE = (2, 3, 2, 2)
S, T = formula(SHAPE, "s"), formula(SHAPE, "t")


def test_hand_computed():
    regressed, teacher = (
        torch.tensor([1.0, 2.0]).view(1, 1, 1, 2),
        torch.tensor([3.0, -1.0]).view(1, 1, 1, 2),
    )
    assert fitnet_loss(regressed, teacher).item() == (2**2 + 3**2) / 2
    # the teacher's map is pooled to (3 - 1) / 2
    assert fitnet_loss(regressed[..., :1], teacher).item() == (1 - 1) ** 2


def test_slow_version():
    pairs = zip(S.flatten().tolist(), T.flatten().tolist(), strict=True)
    assert fitnet_loss(S, T).item() == pytest.approx(
        sum((a - b) ** 2 for a, b in pairs) / 24, rel=1e-10
    )


def test_equal_maps_cost_nothing_and_moving_both_changes_nothing():
    student, moved = S.clone().requires_grad_(), (S + 3).requires_grad_()
    nothing = fitnet_loss(student, S)
    assert nothing.item() == 0 and torch.autograd.grad(nothing, student)[0].abs().max() == 0
    loss, again = fitnet_loss(student, T), fitnet_loss(moved, T + 3)
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(loss, student), torch.autograd.grad(again, moved)
    )


def test_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(lambda s: fitnet_loss(s, T), S.clone().requires_grad_())


@pytest.mark.parametrize("value", [0.0, 1.0, 500.0])
def test_extreme_and_constant_maps_stay_finite(value):
    student = torch.full(SHAPE, value, requires_grad=True)
    loss = fitnet_loss(student, torch.full(SHAPE, -500.0))
    assert (
        loss.item() == (value + 500) ** 2
        and torch.isfinite(torch.autograd.grad(loss, student)[0]).all()
    )


@pytest.mark.parametrize("size", [2, 4, 7, 8, 16])
def test_the_regressor_reaches_the_teachers_shape_and_is_never_negative(size):
    module = regressor(torch.Size((1, 3, 8, 8)), torch.Size((1, 5, size, size)))
    out = module(torch.randn(2, 3, 8, 8))
    assert out.shape == (2, 5, size, size) and out.min() == 0


def test_a_student_map_much_smaller_than_the_teachers_keeps_its_size_and_the_teachers_is_pooled():
    module = regressor(torch.Size((1, 3, 4, 4)), torch.Size((1, 5, 16, 16)))
    out, teacher = module(torch.randn(2, 3, 4, 4)), torch.randn(2, 5, 16, 16)
    assert out.shape == (2, 5, 4, 4)
    assert fitnet_loss(out, teacher).item() == pytest.approx(
        (out - F.avg_pool2d(teacher, 4)).square().mean().item(), rel=1e-5
    )


def build(*words: str, pair: str = "resnet14/resnet8") -> FitNet:
    teacher, student = pair.split("/")
    cfg = load_config(None, ["DISTILLER.TYPE", "FITNET", *words])
    return FitNet(build_model(student, 10), build_model(teacher, 10), cfg)


@pytest.mark.parametrize("layer, channels", [(0, 16), (1, 16), (2, 32), (3, 64)])
def test_one_step_compares_the_hint_layer(layer, channels):
    distiller = build("FITNET.HINT_LAYER", str(layer)).double().train()
    # 1x1 convolution with bias, norm
    assert distiller.get_extra_parameters() == channels**2 + 3 * channels
    image, target = formula((4, 3, 16, 16), "image"), torch.arange(4)
    with torch.no_grad():
        logits, losses = distiller(image=image, target=target)
        own, theirs = (
            net(image)[1]["feats"][layer] for net in (distiller.student, distiller.teacher)
        )
        expected = (distiller.regressor(own) - theirs).square().mean()
    assert losses["loss_kd"].item() == pytest.approx(100 * expected.item(), rel=1e-10)
    assert losses["loss_ce"].item() == pytest.approx(
        F.cross_entropy(logits, target).item(), rel=1e-12
    )


def test_probing_leaves_no_trace():  # in mdistiller it moves both networks' statistics
    distiller = build()
    for network in (distiller.student, distiller.teacher):
        assert all(
            v == 0
            for name, v in network.state_dict().items()
            if name.endswith("num_batches_tracked")
        )


@pytest.mark.parametrize(
    "layer, pair, allowed",
    [
        ("-1", "resnet14/resnet8", "0 or more"),
        ("4", "vgg8/resnet8", "0 to 3"),
        ("5", "vgg8/vgg8", "0 to 4"),
    ],
)
def test_a_hint_layer_that_a_network_lacks_is_refused(layer, pair, allowed):
    with pytest.raises(UserError, match=f"FITNET.HINT_LAYER is {layer}; allowed: {allowed}"):
        build("FITNET.HINT_LAYER", layer, pair=pair)


def test_defaults_are_mdistillers():
    node = load_config(None, ["FITNET.INPUT_SIZE", "(32, 32)"]).FITNET
    assert (node.HINT_LAYER, node.INPUT_SIZE) == (2, [32, 32])
    assert (node.LOSS.CE_WEIGHT, node.LOSS.FEAT_WEIGHT) == (1.0, 100.0)


def test_the_papers_two_phases_train_the_hint_first_and_then_the_rest():
    distiller = build("FITNET.INIT_EPOCHS", "2", "FITNET.LOSS.KD_WEIGHT", "1.0")
    cfg = load_config(None, ["FITNET.INIT_EPOCHS", "2", "SOLVER.EPOCHS", "3"])
    init, train = distiller.phases(cfg)
    assert (init.epochs, init.scores, train.epochs) == (2, False, 3)
    names = {id(p): name for name, p in distiller.named_parameters()}
    first = {
        names[id(p)].rsplit(".", 1)[0]
        for group in distiller.get_parameter_groups(init)
        for p in group["params"]
    }
    assert {"student.conv1", "student.layer2.0.conv2", "regressor.0"} <= first
    assert not any(name.startswith(("student.layer3", "student.fc", "teacher")) for name in first)
    second = {id(p) for group in distiller.get_parameter_groups(train) for p in group["params"]}
    assert second == {id(p) for p in distiller.student.parameters()}
    image, target = formula((4, 3, 16, 16), "image").float(), torch.arange(4)
    distiller.phase = init
    assert distiller.train()(image=image, target=target)[1].keys() == {"loss_kd"}
    assert not distiller.student.layer3.training and distiller.student.layer2.training
    distiller.phase = train
    logits, losses = distiller.train()(image=image, target=target)
    with torch.no_grad():
        logits_teacher, _ = distiller.teacher(image)
    assert losses["loss_kd"].item() == pytest.approx(
        kd_loss(logits, logits_teacher, 4.0).item(), rel=1e-5
    )


def test_kd_beside_the_hint_is_added():
    plain, more = build().double().train(), build("FITNET.LOSS.KD_WEIGHT", "0.5").double().train()
    more.load_state_dict(plain.state_dict())
    image, target = formula((4, 3, 16, 16), "image"), torch.arange(4)
    logits, alone = plain(image=image, target=target)
    _, both = more(image=image, target=target)
    with torch.no_grad():
        kd = kd_loss(logits, plain.teacher(image)[0], 4.0)
    assert both["loss_kd"].item() == pytest.approx(
        alone["loss_kd"].item() + 0.5 * kd.item(), rel=1e-10
    )


@pytest.mark.parametrize(
    "words",
    [("FITNET.INIT_EPOCHS", "-1"), ("FITNET.TAU", "0.0"), ("FITNET.INIT_LR", "-0.1")],
)
def test_bad_settings_are_refused(words):
    with pytest.raises(UserError, match=f"{words[0]} is {words[1]}; allowed"):
        build(*words)

"""NORM: the loss, the transform inside the student, the ramp, the folding into a plain student."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula
from torch import Tensor, nn

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.distillers.norm import NORM, Transform, fold, norm_loss, normalised
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

B = 4
TARGET = torch.arange(B)


def build(*words: str, pair: str = "resnet14/resnet8") -> NORM:
    teacher, student = pair.split("/")
    with torch_seeded(0, "nets"):
        cfg = scaled_config(load_config(None, ["DISTILLER.TYPE", "NORM", "NORM.N", "2", *words]))
        return NORM(build_model(student, 10), build_model(teacher, 10), cfg).train()


def randomise(net: nn.Module) -> None:
    """Norms as different from a fresh net's as training could make them."""
    for name, value in net.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            noise = formula(tuple(value.shape), name).to(value)
            value.copy_(1 + 0.5 * noise if name.endswith(("weight", "var")) else 0.5 * noise)


def test_hand_computed():
    # N = 2 parts of one channel, 1 and 4, against the largest of the teacher's four positions, 3:
    # 2^2 + 1^2
    goal = torch.tensor([[[[0.0, 3.0], [-5.0, 1.0]]]])
    assert norm_loss(torch.tensor([[[[1.0]], [[4.0]]]]), goal, 2).item() == 5


def test_the_loss_equals_an_independent_version():
    u, goal = formula((B, 6, 2, 2), "u"), formula((B, 3, 4, 4), "t")
    total = 0.0
    for part in range(2):
        squares = 0.0
        for b in range(B):
            for c in range(3):
                for i in range(2):
                    for j in range(2):
                        largest = goal[b, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max().item()
                        squares += (u[b, 3 * part + c, i, j].item() - largest) ** 2
        total += squares / (B * 3 * 2 * 2)
    assert norm_loss(u, goal, 2).item() == pytest.approx(total, rel=1e-10)


def test_n_copies_of_the_teachers_map_give_zero_with_zero_gradient():
    goal = formula((B, 3, 4, 4), "t")
    u = goal.repeat(1, 5, 1, 1).requires_grad_()
    loss = norm_loss(u, goal, 5)
    assert loss.item() == 0 and torch.autograd.grad(loss, u)[0].abs().max() == 0


def test_permuting_the_parts_changes_nothing():
    u, goal = formula((B, 6, 4, 4), "u"), formula((B, 3, 4, 4), "t")
    swapped = torch.cat([u[:, 3:], u[:, :3]], 1)
    assert norm_loss(swapped, goal, 2).item() == pytest.approx(
        norm_loss(u, goal, 2).item(), rel=1e-12
    )


def test_gradients_are_those_of_finite_differences():
    goal = formula((2, 2, 4, 4), "t")
    assert torch.autograd.gradcheck(
        lambda u: norm_loss(u, goal, 2), formula((2, 4, 2, 2), "u").requires_grad_()
    )
    assert torch.autograd.gradcheck(
        lambda z: normalised(z, 2.5), formula((3, 5), "z").requires_grad_()
    )


def test_normalised_logits_keep_their_order_and_forget_shift_and_scale():
    z = formula((B, 10), "z")
    y = normalised(z, 2.5)
    assert torch.equal(y.argsort(1), z.argsort(1))
    torch.testing.assert_close(y.mean(1), torch.zeros(B).double())
    torch.testing.assert_close(
        y.std(1, unbiased=False), torch.full((B,), 2.5).double(), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(normalised(100 * z + 7, 2.5), y, rtol=1e-5, atol=1e-5)


def test_a_logit_gap_of_500_and_constant_logits_and_maps_stay_finite():
    for z in (torch.tensor([[500.0, 0.0, 0.0]]), torch.full((1, 3), 7.0)):
        z.requires_grad_()
        loss = F.cross_entropy(normalised(z, 2.5), torch.tensor([1]))
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, z)[0]).all()
    distiller = build("NORM.KD_WEIGHT", "1.0")
    _, losses = distiller(image=torch.zeros(B, 3, 8, 8), target=TARGET)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in distiller.get_learnable_parameters())


def slow_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    x = (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), unbiased=False, keepdim=True) + norm.eps
    ).sqrt()
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def slow_transform(ft: Transform, x: Tensor) -> tuple[Tensor, Tensor]:
    u = slow_norm(torch.einsum("nchw,dc->ndhw", x, ft.expand[0].weight[:, :, 0, 0]), ft.expand[1])
    out = slow_norm(
        torch.einsum("nchw,dc->ndhw", u, ft.contract[0].weight[:, :, 0, 0]), ft.contract[1]
    )
    return x + out if ft.residual else out, u


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("pair", ["resnet14/resnet8", "wrn_16_2/wrn_16_1", "resnet14/ShuffleV1"])
def test_one_step_equals_the_definition(pair, residual):
    words = (
        "NORM.CE_WEIGHT", "0.25",
        "NORM.KD_WEIGHT", "0.5",
        "NORM.FEAT_WEIGHT", "3.0",
        "NORM.RESIDUAL", str(residual),
    )  # fmt: skip
    distiller = build(*words, pair=pair).double()
    image = formula((B, 3, 16, 16), "image")
    student = distiller.student
    z_t, goals = distiller.teacher(image)
    feats = copy.deepcopy(student)(image)[1]
    if pair == "wrn_16_2/wrn_16_1":  # in front of the last norm and ReLU
        x, u = slow_transform(distiller.transform, feats["feats"][-1])
        x = slow_norm(x, student.bn1).clamp(min=0)
    else:
        x, u = slow_transform(distiller.transform, feats["head_in"])
    classifier = student.classifier_module()
    z = x.mean((2, 3)) @ classifier.weight.T + classifier.bias
    goal = goals["feats"][-1]
    goal = goal.unflatten(2, (u.shape[2], -1)).unflatten(4, (u.shape[3], -1)).amax((3, 5))
    feat = sum((part - goal).square().mean() for part in u.chunk(2, 1))

    def slow(logits: Tensor) -> Tensor:
        centred = logits - logits.mean(1, keepdim=True)
        return 2.5 * centred / (centred.square().mean(1, keepdim=True) + 1e-7).sqrt()

    p, q = (slow(z_t) / 4).softmax(1), (slow(z) / 4).softmax(1)
    kd = 16 * (p * (p / q).log()).sum() / B
    logits, losses = distiller(image=image, target=TARGET, epoch=11)
    torch.testing.assert_close(logits, z)
    assert losses["loss_kd"].item() == pytest.approx((0.5 * 3 * feat + 0.5 * kd).item(), rel=1e-9)
    assert losses["loss_ce"].item() == pytest.approx(
        0.25 * F.cross_entropy(slow(z), TARGET).item(), rel=1e-9
    )


def test_without_logit_norm_the_losses_see_the_logits_themselves():
    distiller = build("NORM.LOGIT_NORM", "False")
    logits, losses = distiller(image=formula((B, 3, 8, 8), "image").float(), target=TARGET)
    assert losses["loss_ce"].item() == pytest.approx(
        0.1 * F.cross_entropy(logits, TARGET).item(), rel=1e-5
    )


def test_the_ramps_phases_end_where_the_config_says_and_scale_with_a_short_schedule():
    def factors(epochs: list[int], *words: str) -> list[float]:
        distiller = build(*words)
        data = {"image": formula((B, 3, 8, 8), "image").float(), "target": TARGET}
        return [
            (distiller(**data, epoch=e)[1]["loss_kd"] / distiller.terms["norm_feat"]).item()
            for e in epochs
        ]

    epochs, expected = (
        [1, 10, 11, 20, 21, 180, 181, 210, 211, 240],
        [0.1, 0.1, 0.5, 0.5, 1, 1, 0.5, 0.5, 0.1, 0.1],
    )
    assert factors(epochs) == pytest.approx(expected, rel=1e-5)
    short = factors(
        [1, 2, 3, 22, 23, 26, 27], "SOLVER.EPOCHS", "30", "SOLVER.SCHEDULE_EPOCHS", "240"
    )
    assert short == pytest.approx([0.1, 0.5, 1, 1, 0.5, 0.5, 0.1], rel=1e-5)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(
    "student", ["resnet8", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18", "wrn_16_1"]
)
def test_folded_and_unfolded_logits_agree_in_eval_mode(student, residual):
    with torch_seeded(0, "nets"):
        net, transform = build_model(student, 10).double(), None
        channels = net.classifier_module().in_features
        transform = Transform(channels, 24, residual).double()
    randomise(transform)
    net.eval(), transform.eval()
    image = formula((2, 3, 8, 8), "image")
    x = net.maps_through(image, lambda x: transform(x)[0])[2]
    expected = net.forward_head(x)[0]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    folded = fold(net, transform)
    torch.testing.assert_close(folded(image)[0], expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(expected, net(image)[0], rtol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    plain = {name: value.shape for name, value in folded.state_dict().items()} == {
        n: v.shape for n, v in before.items()
    }
    assert plain == (student != "wrn_16_1")
    added = sum(p.numel() for p in folded.parameters()) - sum(p.numel() for p in net.parameters())
    assert added == (0 if plain else channels**2 + channels)


def test_the_distiller_deploys_the_folded_student():
    distiller = build()
    distiller(image=formula((B, 3, 8, 8), "image").float(), target=TARGET)
    distiller.eval()
    randomise(distiller.transform)
    image = formula((B, 3, 8, 8), "other").float()
    torch.testing.assert_close(
        distiller(image=image), distiller.unfolded(image)[0], rtol=1e-4, atol=1e-5
    )
    student = build_model("resnet8", 10).eval()
    student.load_state_dict(distiller.deployed().state_dict())
    assert torch.equal(student(image)[0], distiller(image=image))


def test_the_transforms_size_is_the_published_one():
    # resnet32x4 to resnet8x4, N = 8
    assert sum(p.numel() for p in Transform(256, 8 * 256, True).parameters()) == 1053184


def test_a_student_whose_map_is_larger_than_the_teachers_is_refused():
    with pytest.raises(
        UserError,
        match="cannot enlarge it: for 32x32 images the student's and the teacher's are 8x8 and 4x4",
    ):
        build(pair="vgg8/resnet8")


@pytest.mark.parametrize(
    "key, value",
    [
        ("N", "0"),
        ("LOGIT_SCALE", "0.0"),
        ("RAMP_EPOCHS", "[10, 20]"),
        ("RAMP_EPOCHS", "[20, 10, 30, 40]"),
    ],
)
def test_meaningless_settings_are_refused(key, value):
    with pytest.raises(UserError, match=f"NORM.{key} is .*; allowed"):
        build(f"NORM.{key}", value)

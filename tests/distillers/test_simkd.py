"""SimKD: the map loss, what is trained, and the network that ships.

That is the student, the projector and the teacher's classifier.
"""

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula
from torch import Tensor

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.simkd import SimKD, map_loss
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

N = 4
TARGET = torch.arange(N)


def build(*words: str, pair: str = "resnet8x4/resnet8") -> SimKD:
    teacher, student = pair.split("/")
    with torch_seeded(0, "nets"):
        cfg = load_config(None, ["DISTILLER.TYPE", "SIMKD", *words])
        return SimKD(build_model(student, 10), build_model(teacher, 10), cfg).train()


def test_hand_computed():
    # the teacher's four positions average to 3 and 5; differences 1 - 3 and 4 - 5
    goal = torch.tensor([[[[0.0, 6.0], [3.0, 3.0]], [[5.0, 5.0], [2.0, 8.0]]]])
    assert map_loss(torch.tensor([[[[1.0]], [[4.0]]]]), goal).item() == (4 + 1) / 2


def test_the_teachers_own_map_gives_zero_and_scaling_by_c_gives_c_squared():
    a, b = formula((2, 3, 4, 4), "a").requires_grad_(), formula((2, 3, 4, 4), "b")
    assert map_loss(b, b).item() == 0
    loss = map_loss(a, b)
    (gradient,) = torch.autograd.grad(loss, a)
    torch.testing.assert_close(gradient, 2 * (a - b).detach() / a.numel())
    assert map_loss(3 * a, 3 * b).item() == pytest.approx(9 * loss.item(), rel=1e-12)


def test_gradient_is_that_of_finite_differences():
    b = formula((2, 2, 4, 4), "b")
    assert torch.autograd.gradcheck(
        lambda a: map_loss(a, b), formula((2, 2, 2, 2), "a").requires_grad_()
    )


def slow_map(distiller: SimKD, x: Tensor) -> Tensor:
    for k in (0, 3, 6):
        conv, norm = distiller.projector[k], distiller.projector[k + 1]
        x = F.conv2d(x, conv.weight, padding=conv.weight.shape[2] // 2)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (
            x.var((0, 2, 3), unbiased=False, keepdim=True) + norm.eps
        ).sqrt()
        x = (x * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
    return x


@pytest.mark.parametrize(
    "pair", ["resnet8x4/resnet8", "wrn_16_2/wrn_16_1", "vgg8/resnet8", "resnet8/ShuffleV1"]
)
def test_one_step_equals_the_definition(pair):
    """In vgg8/resnet8 the student's map is twice the teacher's, in resnet8/ShuffleV1 half of it."""
    distiller = build("SIMKD.FEAT_WEIGHT", "3.0", "SIMKD.CE_WEIGHT", "0.5", pair=pair).double()
    image = formula((N, 3, 16, 16), "image")
    own, goal = distiller.student(image)[1]["head_in"], distiller.teacher(image)[1]["head_in"]
    side = min(own.shape[2], goal.shape[2])
    own, goal = (
        m.unflatten(2, (side, -1)).unflatten(4, (side, -1)).mean((3, 5)) for m in (own, goal)
    )
    projected = slow_map(distiller, own)
    squares = sum((projected[i] - goal[i]).square().sum() for i in range(N)) / goal.numel()
    classifier = distiller.teacher.classifier_module()
    z = projected.mean((2, 3)) @ classifier.weight.T + classifier.bias
    logits, losses = distiller(image=image, target=TARGET)
    torch.testing.assert_close(logits, z)
    assert losses["loss_kd"].item() == pytest.approx(3 * squares.item(), rel=1e-10)
    assert losses["loss_ce"].item() == pytest.approx(
        0.5 * F.cross_entropy(z, TARGET).item(), rel=1e-10
    )


def test_labels_do_not_matter_by_default():
    def gradients(target: Tensor) -> list[Tensor]:
        distiller = build()
        sum(
            distiller(image=formula((N, 3, 8, 8), "image").float(), target=target)[1].values()
        ).backward()
        return [p.grad for p in distiller.get_learnable_parameters()]

    assert all(
        torch.equal(a, b) for a, b in zip(gradients(TARGET), gradients(9 - TARGET), strict=True)
    )


def test_a_wrn_teacher_is_matched_where_its_map_is_not_negative():
    distiller = build(pair="wrn_16_2/resnet8")
    feats = distiller.teacher(formula((N, 3, 8, 8), "image").float())[1]
    assert feats["feats"][-1].min() < 0 <= feats["head_in"].min()
    assert distiller.deployed()(torch.zeros(1, 3, 8, 8))[1]["head_in"].min() >= 0


def test_both_classifiers_are_left_alone():
    distiller = build()
    learnable = {id(p) for p in distiller.get_learnable_parameters()}
    for name, p in distiller.named_parameters():
        assert (id(p) in learnable) == (not name.startswith(("teacher.", "student.fc."))), name


@pytest.mark.parametrize("student", ["resnet8", "MobileNetV2", "vgg8"])
def test_what_ships_is_student_projector_and_the_teachers_classifier(student):
    distiller = build(pair=f"resnet8x4/{student}").eval()
    network = distiller.deployed()
    image = formula((N, 3, 16, 16), "image").float()
    logits, feats = network(image)
    assert torch.equal(distiller(image=image), logits)
    torch.testing.assert_close(feats["pooled_feat"], feats["head_in"].mean((2, 3)))
    parts = {key.split(".")[0] for key in network.state_dict()}
    assert parts == {"backbone", "projector", "classifier"}
    head = {id(p) for p in distiller.student.classifier_module().parameters()}
    assert not head & {id(p) for p in network.parameters()}
    expected = sum(p.numel() for p in distiller.get_learnable_parameters()) + 256 * 10 + 10
    assert sum(p.numel() for p in network.parameters()) == expected
    # taking it out left the student itself whole
    assert distiller.student.classifier_module() is not None


def test_the_projectors_size_is_the_published_one():
    # README of the authors' code, resnet8x4 taught by resnet32x4, factor 2; resnet8x4 as teacher
    # has the same map
    distiller = build(pair="resnet8x4/resnet8x4")
    assert sum(p.numel() for p in distiller.projector.parameters()) == 214016


def test_large_values_and_constant_images_stay_finite():
    a = torch.full((2, 3, 4, 4), 500.0, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(map_loss(a, -a.detach()), a)[0]).all()
    distiller = build("SIMKD.CE_WEIGHT", "1.0")
    _, losses = distiller(image=torch.ones(N, 3, 8, 8), target=TARGET)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in distiller.get_learnable_parameters())


@pytest.mark.parametrize("value, allowed", [("0", "1 or more"), ("257", "1 to 256")])
def test_a_meaningless_factor_is_refused(value, allowed):
    with pytest.raises(UserError, match=f"SIMKD.FACTOR is {value}; allowed: {allowed}"):
        build("SIMKD.FACTOR", value)

"""SoTeacher: both regularisers, the history over epochs, and two phases of which each leaves the
other's network alone.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.oracles import formula
from torch import Tensor, nn

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.soteacher import SoTeacher, consistency, lipschitz, renewal
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded

N, K = 4, 10
TARGET = torch.arange(N)
TEACHER, TRAIN = Phase("teacher", 5, scores=False), Phase("train", 3)


def build(*words: str, num_data: int = 8, pair: str = "resnet14/resnet8") -> SoTeacher:
    teacher, student = pair.split("/")
    with torch_seeded(0, "nets"):
        cfg = scaled_config(load_config(None, ["DISTILLER.TYPE", "SOTEACHER", *words]))
        return SoTeacher(build_model(student, K), build_model(teacher, K), cfg, num_data)


def enter(distiller: SoTeacher, phase: Phase) -> SoTeacher:
    distiller.phase = phase
    return distiller.train()


def test_lipschitz_hand_computed():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=0.0), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[[[-3.0]]], [[[1.0]]]]))
        net[1].weight.copy_(torch.tensor([-4.0, 3.0]))
        net[1].running_var.copy_(torch.tensor([4.0, 1.0]))
        net[2].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
    # |-3| + |1|; max(4 / 2, 3 / 1); max(1 + 3, 2 + 4)
    assert lipschitz(net).item() == 4 + 3 + 6


def test_lipschitz_equals_an_independent_version_on_a_whole_network():
    net, total = build_model("resnet8", K).double(), 0.0
    for name, value in net.state_dict().items():
        if name.endswith("weight") and value.ndim == 4:
            total += sum(abs(w) for w in value.flatten().tolist())
        elif name.endswith("weight") and value.ndim == 2:
            total += max(sum(abs(w) for w in column) for column in value.T.tolist())
        elif name.endswith("weight"):
            variance = net.state_dict()[name.replace("weight", "running_var")]
            total += max(
                abs(g) / (v + 1e-5) ** 0.5
                for g, v in zip(value.tolist(), variance.tolist(), strict=True)
            )
    assert lipschitz(net).item() == pytest.approx(total, rel=1e-10)


def test_lipschitz_grows_with_the_weights_scale_and_its_gradient_is_their_sign():
    net = nn.Sequential(nn.Conv2d(2, 3, 3))
    (gradient,) = torch.autograd.grad(lipschitz(net), net[0].weight)
    assert torch.equal(gradient, net[0].weight.sign())
    before = lipschitz(net).item()
    with torch.no_grad():
        net[0].weight.mul_(-3)
    assert lipschitz(net).item() == pytest.approx(3 * before, rel=1e-6)


def test_consistency_hand_computed_and_its_limits():
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).requires_grad_()
    q = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    assert consistency(p, q).item() == (1 + 1) / 2
    assert consistency(p, p.detach()).item() == 0
    assert torch.autograd.grad(consistency(p, p.detach()), p)[0].abs().max() == 0


def test_gradients_are_those_of_finite_differences():
    q = formula((3, 4), "q").softmax(1)
    assert torch.autograd.gradcheck(
        lambda z: consistency(z.softmax(1), q), formula((3, 4), "z").requires_grad_()
    )

    class Bare(nn.Linear):
        """A linear layer whose weight is handed in."""

    def bound(weight: Tensor) -> Tensor:
        layer = Bare(3, 2)
        del layer.weight
        layer.weight = weight
        return lipschitz(layer)

    assert torch.autograd.gradcheck(bound, formula((2, 3), "w").requires_grad_())


@pytest.mark.parametrize("kind, first_counts", [("even", 1), ("released", 2)])
def test_the_history_is_the_mean_of_the_past(kind, first_counts):
    past = [formula((3,), f"p{epoch}") for epoch in range(1, 6)]
    q = torch.zeros(3).double()
    for epoch, p in enumerate(past, start=1):
        q = (1 - renewal(epoch, kind)) * q + renewal(epoch, kind) * p
        mean = (first_counts * past[0] + sum(past[1:epoch])) / (epoch - 1 + first_counts)
        torch.testing.assert_close(q, past[0] if epoch == 1 else mean)


def slow_phase(
    distiller: SoTeacher, data: list[dict], lip_weight: float
) -> list[tuple[float, float]]:
    """Both losses of the teacher's phase, an epoch at a time, without any training in between."""
    teacher, results, past = copy.deepcopy(distiller.teacher), [], {}
    for epoch, batch in enumerate(data, start=1):
        z = teacher(batch["image"])[0]
        ce = distance = 0.0
        for row, label, i in zip(
            z.tolist(), batch["target"].tolist(), batch["index"].tolist(), strict=True
        ):
            p = torch.tensor(row, dtype=torch.float64).softmax(0)
            ce -= p[label].log().item() / N
            if i in past:
                q = (
                    (2 * past[i][0] + sum(past[i][1:])) / (1 + len(past[i]))
                    if len(past[i]) > 1
                    else past[i][0]
                )
                distance += (p - q).square().sum().item() / N
            past.setdefault(i, []).append(p)
        consist = 0.0 if epoch == 1 else 0.8 * epoch / TEACHER.epochs * distance
        results.append((ce, lip_weight * lipschitz(teacher).item() + consist))
    return results


def test_the_teachers_phase_equals_the_definition_over_epochs():
    words = ("SOTEACHER.LIP_WEIGHT", "0.01", "SOTEACHER.CONSIST_WEIGHT", "0.8")
    distiller = enter(build(*words).double(), TEACHER)
    data = [
        {
            "image": formula((N, 3, 8, 8), f"image{e}"),
            "target": TARGET,
            "index": torch.tensor([5, 0, 7, 2]),
        }
        for e in range(5)
    ]
    expected = slow_phase(distiller, data, 0.01)
    for epoch, batch in enumerate(data, start=1):
        logits, losses = distiller(**batch, epoch=epoch)
        assert (losses["loss_ce"].item(), losses["loss_kd"].item()) == pytest.approx(
            expected[epoch - 1], rel=1e-9
        )
    assert logits.shape == (N, K)
    assert distiller.history[[1, 3, 4, 6]].abs().max() == 0  # images that never came
    torch.testing.assert_close(distiller.history[[5, 0, 7, 2]].sum(1), torch.ones(N).double())


def test_the_students_phase_is_kd():
    distiller = enter(build("SOTEACHER.KD.TAU", "2.0", "SOTEACHER.KD.KD_WEIGHT", "0.7"), TRAIN)
    image = formula((N, 3, 8, 8), "image").float()
    logits, losses = distiller(image=image, target=TARGET, epoch=1, index=TARGET)
    assert losses["loss_ce"].item() == pytest.approx(
        0.5 * F.cross_entropy(logits, TARGET).item(), rel=1e-6
    )
    kd = kd_loss(logits, distiller.teacher(image)[0], 2.0)
    assert losses["loss_kd"].item() == pytest.approx(0.7 * kd.item(), rel=1e-6)


def test_each_phase_trains_one_network_and_leaves_the_other_alone():
    distiller = build()
    sgd = {phase.name: distiller.get_parameter_groups(phase) for phase in (TEACHER, TRAIN)}
    for phase, name, other in ((TEACHER, "teacher.", "student."), (TRAIN, "student.", "teacher.")):
        enter(distiller, phase)
        optimizer = torch.optim.SGD(
            [p for group in sgd[phase.name] for p in group["params"]], lr=0.1, weight_decay=5e-4
        )
        before = {key: value.clone() for key, value in distiller.state_dict().items()}
        for step in range(2):
            image = formula((N, 3, 8, 8), f"image{step}").float()
            sum(distiller(image=image, target=TARGET, epoch=2, index=TARGET)[1].values()).backward()
            optimizer.step()
            optimizer.zero_grad()
        after = distiller.state_dict()
        changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
        assert {key for key, _ in distiller.named_parameters() if key.startswith(name)} <= changed
        assert not {key for key in changed if key.startswith(other)}  # running statistics either
        assert ("history" in changed) == (phase is TEACHER)


def test_modes_and_learning_rates():
    distiller = build("SOTEACHER.TEACHER_LR_FACTOR", "5.0")
    for phase, trained, idle in (
        (TEACHER, "teacher", "student"),
        (TRAIN, "student", "teacher"),
        (None, "student", "teacher"),
    ):
        enter(distiller, phase)
        assert all(module.training for module in getattr(distiller, trained).modules())
        assert not any(module.training for module in getattr(distiller, idle).modules())
    assert [group.get("lr_factor", 1) for group in distiller.get_parameter_groups(TEACHER)] == [5.0]
    assert [group.get("lr_factor", 1) for group in distiller.get_parameter_groups(TRAIN)] == [1]


def test_phases_follow_the_schedule():
    cfg = scaled_config(
        load_config(
            None, "DISTILLER.TYPE SOTEACHER SOLVER.EPOCHS 30 SOLVER.SCHEDULE_EPOCHS 240".split()
        )
    )
    assert build().phases(cfg) == [Phase("teacher", 30, scores=False), Phase("train", 30)]


def test_a_logit_gap_of_500_and_constant_images_stay_finite():
    distiller = enter(build(), TEACHER)
    with torch.no_grad():
        distiller.teacher.fc.bias[0] = 500
    for epoch in (1, 2):
        _, losses = distiller(
            image=torch.zeros(N, 3, 8, 8), target=TARGET, epoch=epoch, index=TARGET
        )
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in distiller.teacher.parameters())


@pytest.mark.parametrize("key, value", [("TEACHER_EPOCHS", "0"), ("TEACHER_LR_FACTOR", "0.0")])
def test_meaningless_settings_are_refused(key, value):
    with pytest.raises(UserError, match=f"SOTEACHER.{key} is {value}; allowed: above 0"):
        build(f"SOTEACHER.{key}", value)


def test_an_unknown_history_is_refused():
    with pytest.raises(
        UserError, match="unknown history 'evan' in SOTEACHER.HISTORY: did you mean 'even'"
    ):
        build("SOTEACHER.HISTORY", "evan")

"""The phase that AB, FSP and FT begin with: what it trains, in which mode, how long; a tiny run."""

import copy

import pytest
import torch
from cases import Fixed
from support.loop import Loop, snapshot
from support.oracles import formula
from support.tiny import metrics, save_teacher, tiny_config
from torch import nn

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.data import cifar100
from sdkd_plugin.distillers.ab import AB
from sdkd_plugin.distillers.base import Phase
from sdkd_plugin.distillers.feature_init import feature_modules
from sdkd_plugin.distillers.fsp import FSP
from sdkd_plugin.distillers.ft import FT
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.engine.run import train
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model

METHODS = {"AB": AB, "FSP": FSP, "FT": FT}
every_method = pytest.mark.parametrize("name", METHODS)


def config(name: str, *words: str):
    return load_config(None, ["DISTILLER.TYPE", name, *words])


def build(name: str, *words: str, pair: str = "resnet14/resnet8"):
    teacher, student = pair.split("/")
    torch.manual_seed(0)
    return METHODS[name](build_model(student, 10), build_model(teacher, 10), config(name, *words))


def enter_init(distiller) -> Loop:
    phases = distiller.phases(
        config(next(name for name, method in METHODS.items() if type(distiller) is method))
    )
    loop = Loop(distiller, phases)
    loop.enter(phases[0])
    return loop


@every_method
def test_the_first_phase_is_scaled_like_the_schedule_and_keeps_its_learning_rate(name):
    short = ["SOLVER.EPOCHS", "24", "SOLVER.SCHEDULE_EPOCHS", "240", "SOLVER.LR", "0.3"]
    rate = {"AB": 0.3, "FSP": 0.3, "FT": 0.01}[name]
    distiller = build(name)
    assert distiller.phases(scaled_config(config(name, *short))) == [
        Phase("init", 3, rate, scores=False),
        Phase("train", 24),
    ]
    set_rate = distiller.phases(config(name, f"{name}.INIT_LR", "0.2", f"{name}.INIT_EPOCHS", "7"))
    assert set_rate == [Phase("init", 7, 0.2, scores=False), Phase("train", 240)]
    assert distiller.phases(config(name, f"{name}.INIT_EPOCHS", "0")) == [Phase("train", 240)]
    assert distiller.phases(config(name, f"{name}.INIT_LR", "0.0", "SOLVER.LR", "0.4"))[0].lr == 0.4


@every_method
@pytest.mark.parametrize("key, value", [("INIT_EPOCHS", "-1"), ("INIT_LR", "-0.1")])
def test_negative_lengths_and_rates_are_refused(name, key, value):
    with pytest.raises(UserError, match=f"{name}.{key} is {value}; allowed: 0 or more"):
        build(name, f"{name}.{key}", value)


@every_method
def test_a_run_trains_both_phases_and_scores_the_second(name, tmp_path):
    extra = {
        "DISTILLER.TYPE": name,
        "DISTILLER.TEACHER_CKPT": save_teacher(tmp_path / "teacher"),
        f"{name}.INIT_EPOCHS": 2,
    }
    extra[f"{name}.INIT_LR"] = 0.001
    # images that vary less than their own deviation makes them: so that two epochs are enough
    extra |= {"DATASET.MEAN": list(cifar100.MEAN), "DATASET.STD": list(cifar100.STD)}
    cfg = tiny_config(tmp_path, {**extra, "SOLVER.EPOCHS": 1})
    train(cfg)
    (folder,) = (path.parent for path in tmp_path.rglob("metrics.csv"))
    rows = metrics(folder)
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        ("init", "1"),
        ("init", "2"),
        ("train", "1"),
    ]
    assert [bool(row["test_top1"]) for row in rows] == [False, False, True]
    assert [float(row["lr"]) for row in rows] == [0.001, 0.001, cfg.SOLVER.LR]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    assert [bool(row["loss_ce"]) for row in rows] == [False, False, True]


# between the last map and the head
BEHIND = {"wrn_16_1": {"bn1"}, "MobileNetV2": {"conv2"}, "ShuffleV2": {"conv2", "bn2"}}


@pytest.mark.parametrize(
    "student", ["resnet8", "wrn_16_1", "vgg8", "ResNet18", "MobileNetV2", "ShuffleV1", "ShuffleV2"]
)
def test_feature_modules_are_those_in_front_of_the_last_map(student):
    net = build_model(student, 10).train()
    before, modes = snapshot(net), [module.training for module in net.modules()]
    trained = {id(module) for module in feature_modules(net, "AB")}
    names = {name for name, module in net.named_children() if id(module) not in trained}
    assert names == {net.head} | BEHIND.get(student, set())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes


@pytest.mark.parametrize("name", ["AB", "FSP"])
def test_in_the_first_phase_what_lies_behind_the_last_map_stays_in_eval_and_untouched(name):
    distiller = build(name, pair="wrn_16_1/wrn_16_1")
    loop = enter_init(distiller)
    behind = {
        key: value
        for key, value in snapshot(distiller.student).items()
        if key.startswith(("bn1.", "fc."))
    }
    assert not distiller.student.bn1.training and not distiller.student.training
    assert distiller.student.block3.layer[0].bn1.training
    before = distiller.student.block3.layer[0].bn1.running_mean.clone()
    loop.step(0)
    assert (
        all(
            torch.equal(value, distiller.student.state_dict()[key]) for key, value in behind.items()
        )
        and len(behind) == 7
    )
    assert not torch.equal(before, distiller.student.block3.layer[0].bn1.running_mean)
    loop.enter(loop.phases[1])
    assert all(module.training for module in distiller.student.modules())


@pytest.mark.parametrize("name", ["AB", "FSP"])
def test_a_student_that_cannot_name_its_feature_modules_is_refused(name):
    with pytest.raises(
        UserError,
        match=f"{name} trains feature maps .* but the student Fixed has no get_feat_modules",
    ):
        METHODS[name](Fixed(torch.zeros(2, 10)), build_model("resnet8", 10), config(name))


@pytest.mark.parametrize("name", ["AB", "FSP"])
def test_the_second_phase_is_cross_entropy_without_a_teacher_or_with_kd_beside_it(name):
    words = [
        f"{name}.LOSS.CE_WEIGHT", "2.0",
        f"{name}.LOSS.KD_WEIGHT", "0.5",
        f"{name}.TAU", "3.0",
    ]  # fmt: skip
    alone, beside = build(name).double().train(), build(name, *words).double().train()
    image, target = formula((4, 3, 16, 16), "image"), torch.tensor([0, 3, 9, 3])
    logits_student = copy.deepcopy(alone.student)(image)[0]
    logits_teacher = alone.teacher(image)[0]
    expected = nn.functional.cross_entropy(logits_student, target).item()
    alone.teacher.forward = None  # must not be called
    _, losses = alone(image=image, target=target)
    assert {key: value.item() for key, value in losses.items()} == pytest.approx(
        {"loss_ce": expected}, rel=1e-12
    )
    _, losses = beside(image=image, target=target)
    kd = kd_loss(logits_student, logits_teacher, 3.0).item()
    assert {key: value.item() for key, value in losses.items()} == pytest.approx(
        {"loss_ce": 2 * expected, "loss_kd": kd / 2}
    )


@pytest.mark.parametrize("name", ["AB", "FSP"])
def test_a_temperature_of_zero_is_refused(name):
    with pytest.raises(UserError, match=f"{name}.TAU is 0.0; allowed: above 0"):
        build(name, f"{name}.TAU", "0.0")

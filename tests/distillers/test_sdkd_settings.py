"""What SDKD takes: pairs of stages, and every setting that is refused."""

import math
import re

import pytest
from support.sdkd_steps import (
    CLASSES,
    build,
    config,
)
from torch import Tensor, nn

from sdkd_plugin.distillers.sdkd import SDKD
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        ("resnet8", "resnet14", {1: 1, 2: 2, 3: 3}),  # ceil(k 3/3)
        ("MobileNetV2", "resnet14", {1: 1, 2: 2, 3: 3, 4: 3}),  # ceil(k 3/4)
        ("resnet8", "vgg8", {1: 2, 2: 3, 3: 4}),  # ceil(k 4/3)
    ],
)
def test_student_stage_k_of_n_pairs_with_teacher_stage_ceil_km_over_n(student, teacher, pairs):
    distiller = build(student, teacher)
    assert distiller.pairs == pairs
    assert all(
        j == math.ceil(k * len(distiller.teacher_family.stages) / len(pairs))
        for k, j in pairs.items()
    )


def test_stages_are_those_asked_for():
    assert list(build(STAGES="[3, 1]").pairs) == [1, 3]
    assert list(build(STAGES="[]").pairs) == [1, 2, 3]


@pytest.mark.parametrize("stages", ["[0]", "[-1]", "[2, 2]", "[1.0]", "['1']", "[True]"])
def test_bad_stages_are_refused_before_there_is_a_student(stages):
    message = rf"SDKD.STAGES is {re.escape(stages)}; allowed: different whole numbers from 1"
    with pytest.raises(UserError, match=message):
        config(STAGES=stages)


def test_a_stage_that_the_student_lacks_is_refused_with_the_allowed_range():
    with pytest.raises(UserError, match=r"SDKD.STAGES is \[4, 1\].*from 1 to 3"):
        build(STAGES="[4, 1]")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("FUSION", "gates", r"SDKD.FUSION: did you mean 'gate'\? known: concat, gate, residual,"),
        (
            "FUSION",
            "teacher",
            r"SDKD.STAGES is \[\] with SDKD.FUSION 'teacher'; it wants one stage",
        ),
        ("SYNC", "never", r"'never' in SDKD.SYNC: .*known: checkpoint, ema, epoch, init, step"),
        ("PROXY_BN", "eval", r"SDKD.PROXY_BN: .*known: batch, student"),
        ("TEACHER_FEATURES", "none", r"SDKD.TEACHER_FEATURES: .*known: own, shuffled, zeros"),
        ("TAU", 0.0, r"SDKD.TAU is 0.0; allowed: above 0"),
        ("TAU", -1.0, r"SDKD.TAU is -1.0; allowed: above 0"),
        ("EMA_DECAY", 1.5, r"SDKD.EMA_DECAY is 1.5; allowed: from 0 to 1.0"),
        ("WARMUP", -1, r"SDKD.WARMUP is -1; allowed: 0 or more"),
        ("LOSS.MUTUAL_WEIGHT", -0.5, r"SDKD.LOSS.MUTUAL_WEIGHT is -0.5; allowed: 0 or more"),
        (
            "SYNC",
            "checkpoint",
            r"SDKD.SYNC_CKPT is '' with SDKD.SYNC 'checkpoint'; only checkpoint has a file",
        ),
        ("SYNC_CKPT", "a.pth", r"SDKD.SYNC_CKPT is 'a.pth' with SDKD.SYNC 'ema'; only checkpoint"),
    ],
)
def test_bad_values_are_refused(key, value, message):
    with pytest.raises(UserError, match=message):
        build(**{key: value})


class Plain(nn.Module):
    """A model without stages."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, CLASSES)


class Bare(nn.Module):
    """Has a resnet's stages but returns logits alone."""

    def __init__(self):
        super().__init__()
        self.layer1, self.layer2, self.layer3 = (
            nn.Conv2d(3, 4, 1),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, CLASSES, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


def test_an_unsupported_architecture_is_refused_by_its_class_and_the_families():
    good = build_model("resnet8", CLASSES)
    for models in ((Plain(), good), (good, Plain())):
        with pytest.raises(
            UserError,
            match="no stages in Plain; supported families: .*resnet.*vgg.*wrn.*MobileNetV2",
        ):
            SDKD(*models, config())
    for models in ((Bare(), good), (good, Bare())):
        with pytest.raises(
            UserError, match="Bare has the stages of resnet .* does not return .*feats"
        ):
            SDKD(*models, config())

"""Every method on the pairs that published tables compare, or its one line why not.

The smallest batch, real sizes.
"""

import pytest
import torch
from cases import CASES, Case
from support.loop import Loop, build, config

from sdkd_plugin.errors import UserError

PAIRS = (  # teacher/student
    "resnet56/resnet20",
    "resnet110/resnet20",
    "resnet110/resnet32",
    "wrn_40_2/wrn_16_2",
    "wrn_40_2/wrn_40_1",
    "resnet32x4/resnet8x4",
    "vgg13/vgg8",
    "ResNet50/MobileNetV2",
    "resnet32x4/ShuffleV1",
    "resnet32x4/ShuffleV2",
    "vgg13/MobileNetV2",
    "ResNet50/vgg8",
    "wrn_40_2/ShuffleV1",
)


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_steps_of_each_phase_are_finite_or_the_pair_is_refused(case: Case, pair: str):
    if pair in case.refuses:
        with pytest.raises(UserError, match=case.refuses[pair]) as refusal:
            build(case, pair=pair)
        assert "\n" not in str(refusal.value)
        return
    distiller = build(case, pair=pair)
    cfg = config(case)
    n = cfg.SOLVER.BATCH_SIZE if distiller.needs_constant_batch else 2
    loop = Loop(distiller, distiller.phases(cfg), n=n, size=32)
    for phase in loop.phases:
        loop.enter(phase)
        for number in range(2):
            assert torch.isfinite(loop.step(number))
    assert all(torch.isfinite(value).all() for value in distiller.state_dict().values())

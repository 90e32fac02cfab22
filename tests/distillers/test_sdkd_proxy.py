"""SDKD's proxy teacher: a copy of the student that holds no weights of its own.

On every family, host and device layout.
"""

import copy
import io

import pytest
import torch
from support.sdkd_steps import (
    CLASSES,
    batch,
    build,
    equal_bits,
    leftovers,
    optimizer,
    run_proxy,
    step,
)
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sdkd_plugin.models import build_model
from sdkd_plugin.models.families import find_family

FAST, SLOW = ("resnet8", "wrn_16_1", "vgg8", "MobileNetV2"), ("ResNet18", "ShuffleV1", "ShuffleV2")
every_family = pytest.mark.parametrize(
    "student", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)


# --- the shortened pass


@every_family
def test_starting_from_the_students_map_equals_the_full_pass_bit_for_bit(student):
    """SYNC epoch copies the weights in a new epoch and passes P from the image on.

    Here that is in every step.
    """
    n = len(find_family(build_model(student, CLASSES)).stages)
    for stages in ([], [2], [n]):
        short = build(student, STAGES=stages, SYNC="step", loss={"FEAT_WEIGHT": 0.5})
        full = build(student, STAGES=stages, SYNC="epoch", loss={"FEAT_WEIGHT": 0.5})
        assert short.proxy.starts_inside and not full.proxy.starts_inside
        optimizers = optimizer(short), optimizer(full)
        for number in range(2):
            losses = [
                step(d, sgd, batch(number, n=4), epoch=number)
                for d, sgd in zip((short, full), optimizers, strict=True)
            ]
            assert losses[0] == losses[1]
        assert equal_bits(short.student, full.student)
        for k in short.proxy.stages:
            path = f"{short.proxy.family.stages[k - 1]}.fusion"
            assert equal_bits(
                short.proxy.model.get_submodule(path), full.proxy.model.get_submodule(path)
            )


def test_the_shortened_pass_runs_nothing_before_the_first_fused_stage():
    distiller = build("resnet20", STAGES="[3]", SYNC="step", FUSION="gate")
    ran: list[str] = []
    for name, module in distiller.proxy.model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    distiller(**batch())
    assert set(ran) == {"layer3.fusion.project.0", "layer3.fusion.gates", "layer3.fusion.fuse.0"}


@every_family
def test_no_operation_changes_the_students_maps(student):
    for settings in (
        {},
        {"SYNC": "step", "FUSION": "gate"},
        {"SYNC": "step", "STAGES": "[2]", "FUSION": "residual"},
        {"PROXY_BN": "student", "FUSION": "concat"},
    ):
        distiller = build(student, **settings)
        image = batch(n=4)["image"]
        feats = distiller.student(image)[1]
        maps = [*feats["feats"], *feats["preact_feats"]]
        copies, versions = [m.clone() for m in maps], [m._version for m in maps]
        teacher_maps = distiller.teacher_maps(distiller.teacher(image)[1])
        distiller.proxy(
            image, distiller.student, feats[distiller.proxy.family.maps], teacher_maps, 1
        )
        assert [m._version for m in maps] == versions
        assert all(torch.equal(m, c) for m, c in zip(maps, copies, strict=True))


# --- the student's own statistics and the weights P has from it


@every_family
@pytest.mark.parametrize("settings", [{}, {"SYNC": "step", "FUSION": "gate"}])
def test_the_students_batch_norms_move_once_a_step_as_without_a_proxy(student, settings):
    distiller = build(student, **settings)
    alone = copy.deepcopy(distiller.student)
    data = batch(n=4)
    distiller(**data)
    alone(data["image"])
    assert equal_bits(distiller.student, alone)
    norms = [m for m in distiller.student.modules() if isinstance(m, _BatchNorm)]
    assert norms and all(norm.num_batches_tracked == 1 for norm in norms)


def test_after_training_p_still_has_the_students_current_weights():
    distiller = build(SYNC="step")
    sgd = optimizer(distiller)
    for number in range(3):
        step(distiller, sgd, batch(number))
    distiller(**batch(3))
    own, theirs = (
        dict(distiller.proxy.model.named_modules()),
        dict(distiller.student.named_modules()),
    )
    assert len(distiller.proxy.shared) > 10
    for path, student_path, names in distiller.proxy.shared:
        for name in names:
            mine = getattr(own[path], name)
            assert torch.equal(mine, getattr(theirs[student_path], name))
            assert (
                not mine.requires_grad
                and mine.grad_fn is None
                and not isinstance(mine, nn.Parameter)
            )


def test_state_holds_the_proxys_fusion_and_buffers_but_no_copy_of_the_students_weights():
    distiller = build(SYNC="step")
    keys = [
        key for key in distiller.state_dict() if key.startswith("proxy.") and ".fusion." not in key
    ]
    assert keys and {key.rpartition(".")[2] for key in keys} == {
        "synced",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_nothing_is_left_behind_by_a_step_nor_by_a_failing_one():
    distiller = build()
    distiller(**batch())
    assert leftovers(distiller) == []
    image = batch()["image"]
    s = distiller.student(image)[1]["feats"]
    maps = {k: torch.zeros(8, 5, 4, 4) for k in (1, 2, 3)}  # channels that no projection takes
    with pytest.raises(RuntimeError):
        distiller.proxy(image, distiller.student, s, maps, 1)
    assert leftovers(distiller) == []


def test_copies_and_files_of_the_distiller_go_on_with_the_same_bits_and_alone():
    first = build()
    step(first, optimizer(first), batch(0))
    second, file = copy.deepcopy(first), io.BytesIO()
    torch.save(first, file)
    file.seek(0)
    third = torch.load(file, weights_only=False)
    before = copy.deepcopy(first.state_dict())
    for other in (second, third):
        step(other, optimizer(other), batch(1))
    assert all(torch.equal(value, before[key]) for key, value in first.state_dict().items())
    step(first, optimizer(first), batch(1))
    assert equal_bits(first, second) and equal_bits(first, third)


def test_moving_the_distiller_moves_the_proxy():
    for sync in ("step", "init"):
        distiller = build("vgg8", "vgg11", SYNC=sync)
        assert "Conv2d" in repr(distiller)  # before any step too
        distiller(**batch(n=2))
        distiller.double().to(memory_format=torch.channels_last)
        z_p, _ = run_proxy(distiller, batch(n=2, dtype=torch.float64)["image"])
        kernel = distiller.proxy.model.block4.stage[0].weight
        assert z_p.dtype is torch.float64 and kernel.dtype is torch.float64
        assert kernel.is_contiguous(memory_format=torch.channels_last)

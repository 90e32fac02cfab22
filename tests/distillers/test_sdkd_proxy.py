"""SDKD's proxy teacher: a copy of the student that holds no weights of its own.

On every family, host and device layout.
"""

import copy
import importlib
import io
import os

import pytest
import torch
from support.sdkd_steps import CLASSES, batch, build, config, equal_bits, optimizer, step
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sdkd_plugin.distillers.proxy import ProxyStage
from sdkd_plugin.distillers.sdkd import SDKD
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.models.families import find_family

FAST, SLOW = ("resnet8", "wrn_16_1", "vgg8", "MobileNetV2"), ("ResNet18", "ShuffleV1", "ShuffleV2")
every_family = pytest.mark.parametrize(
    "student", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)


def run_proxy(distiller: SDKD, image: Tensor, epoch: int = 1) -> tuple[Tensor, list[Tensor]]:
    """z_P and P's maps."""
    feats = distiller.student(image)[1]
    teacher_maps = distiller._teacher_maps(distiller.teacher(image)[1])
    return distiller.proxy(
        image, distiller.student, feats[distiller.proxy.family.maps], teacher_maps, epoch
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
    distiller = build("resnet20", STAGES="[3]")
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
        {"STAGES": "[2]", "FUSION": "residual"},
        {"PROXY_BN": "student", "FUSION": "concat"},
    ):
        distiller = build(student, **settings)
        image = batch(n=4)["image"]
        feats = distiller.student(image)[1]
        maps = [*feats["feats"], *feats["preact_feats"]]
        copies, versions = [m.clone() for m in maps], [m._version for m in maps]
        teacher_maps = distiller._teacher_maps(distiller.teacher(image)[1])
        distiller.proxy(
            image, distiller.student, feats[distiller.proxy.family.maps], teacher_maps, 1
        )
        assert [m._version for m in maps] == versions
        assert all(torch.equal(m, c) for m, c in zip(maps, copies, strict=True))


# --- the student's own statistics and the weights P has from it


@every_family
def test_the_students_batch_norms_move_once_a_step_as_without_a_proxy(student):
    distiller = build(student)
    alone = copy.deepcopy(distiller.student)
    data = batch(n=4)
    distiller(**data)
    alone(data["image"])
    assert equal_bits(distiller.student, alone)
    norms = [m for m in distiller.student.modules() if isinstance(m, _BatchNorm)]
    assert norms and all(norm.num_batches_tracked == 1 for norm in norms)


def test_after_training_p_still_has_the_students_current_weights():
    distiller = build()
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
    distiller = build()
    keys = [
        key for key in distiller.state_dict() if key.startswith("proxy.") and ".fusion." not in key
    ]
    assert keys and {key.rpartition(".")[2] for key in keys} == {
        "synced",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def leftovers(distiller: SDKD) -> list[tuple[str, str]]:
    """Attributes of the proxy's modules, but for registered tensors, that hold a graph or a map."""
    found = []
    for path, module in distiller.proxy.named_modules():
        for name, value in vars(module).items():
            if (
                isinstance(value, Tensor)
                and ".fusion" not in path
                and (value.requires_grad or isinstance(module, ProxyStage))
            ):
                found.append((path, name))
    return found


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


# --- DataParallel, without a GPU


def replicate(module: nn.Module, change: float, same_device: bool = False) -> nn.Module:
    """What torch.nn.parallel.replicate makes of a module: weights are plain tensors, no longer
    leaves nor listed.

    Args:
        change: factor on every weight, so that a replica that looks elsewhere for them is found
            out.
        same_device: the first replica shares the module's buffers, the others have copies.
    """
    replicas = {m: m._replicate_for_data_parallel() for m in module.modules()}
    for original, replica in replicas.items():
        for name, child in original._modules.items():
            replica._modules[name] = None if child is None else replicas[child]
        for name, parameter in original._parameters.items():
            if parameter is None:
                replica._parameters[name] = None
            else:
                setattr(replica, name, parameter * change)
        for name, buffer in original._buffers.items():
            replica._buffers[name] = buffer if buffer is None or same_device else buffer.clone()
    return replicas[module]


@pytest.mark.parametrize(
    "settings", [{}, {"STAGES": "[2]"}, {"PROXY_BN": "student"}, {"SYNC": "init"}], ids=str
)
@pytest.mark.parametrize("student", ["resnet8", "wrn_16_1"])
def test_a_replica_runs_its_own_students_weights(student, settings):
    distiller = build(student, **settings)
    with torch.no_grad():
        distiller(**batch(0, n=4))  # P has the weights of before the replication
    distiller.proxy.synced.fill_(-1)
    expected = copy.deepcopy(distiller)
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter.mul_(1.25)
    replica = replicate(distiller, change=1.25)
    assert list(replica.parameters()) == []
    z, losses = replica(**batch(1, n=4))
    z_expected, losses_expected = expected(**batch(1, n=4))
    assert torch.equal(z, z_expected) and losses == losses_expected
    assert not torch.equal(z, distiller(**batch(1, n=4))[0])
    assert leftovers(replica) == []
    sum(losses.values()).backward()
    sum(losses_expected.values()).backward()
    for p, q in zip(
        distiller.get_learnable_parameters(), expected.get_learnable_parameters(), strict=True
    ):
        # through the replica to the original's leaves
        torch.testing.assert_close(p.grad, 1.25 * q.grad)


@pytest.mark.parametrize("sync", ["epoch", "init", "ema"])
def test_what_the_first_replica_copies_outlives_it(sync):
    """As with batch norm's statistics: the first replica changes the module's buffers in place."""
    distiller = build(SYNC=sync)
    replica = replicate(distiller, change=1.5, same_device=True)
    replica(**batch(), epoch=3)
    assert distiller.proxy.synced == 3
    assert torch.equal(distiller.proxy.model.conv1.weight, 1.5 * distiller.student.conv1.weight)


# --- when weights are copied


def weights_over_three_steps(**settings: object) -> tuple[list[Tensor], list[Tensor]]:
    """S's and P's first kernel at each of three steps, in epochs 1, 1, 2."""
    distiller = build(**settings)
    with torch.no_grad():
        distiller.student.conv1.weight.mul_(2)  # after construction: the first step must see it
    sgd, students, proxies = optimizer(distiller), [], []
    for number, epoch in enumerate((1, 1, 2)):
        students.append(distiller.student.conv1.weight.detach().clone())
        step(distiller, sgd, batch(number), epoch=epoch)
        proxies.append(distiller.proxy.model.conv1.weight.clone())
    assert not torch.equal(students[0], students[1]) and not torch.equal(students[1], students[2])
    return students, proxies


def test_sync_init_keeps_the_weights_of_the_first_step():
    students, proxies = weights_over_three_steps(SYNC="init")
    assert all(torch.equal(proxy, students[0]) for proxy in proxies)


def test_sync_epoch_copies_when_the_epoch_changes():
    students, proxies = weights_over_three_steps(SYNC="epoch")
    assert (
        torch.equal(proxies[0], students[0])
        and torch.equal(proxies[1], students[0])
        and torch.equal(proxies[2], students[2])
    )


def test_sync_ema_averages_from_the_first_step_on():
    students, proxies = weights_over_three_steps(SYNC="ema", EMA_DECAY=0.75)
    expected = students[0]
    assert torch.equal(proxies[0], expected)
    for student, proxy in zip(students[1:], proxies[1:], strict=True):
        expected = 0.75 * expected + 0.25 * student
        torch.testing.assert_close(proxy, expected)


@pytest.mark.parametrize("norms", ["batch", "student"])
def test_sync_checkpoint_keeps_the_trained_students_weights(tmp_path, norms):
    trained = build(seed=7).student
    trained(batch(9)["image"])  # moves its running statistics
    path = tmp_path / "trained.pth"
    torch.save({"model": trained.state_dict()}, path)
    distiller = build(SYNC="checkpoint", SYNC_CKPT=path, PROXY_BN=norms, FUSION="residual")
    sgd = optimizer(distiller)
    z_p, _ = run_proxy(distiller, batch()["image"])
    # the fusion starts as the identity
    assert torch.equal(z_p, trained.train(norms == "batch")(batch()["image"])[0])
    for number in range(2):
        step(distiller, sgd, batch(number))
    assert torch.equal(distiller.proxy.model.conv1.weight, trained.conv1.weight)
    assert not torch.equal(distiller.student.conv1.weight, trained.conv1.weight)
    assert distiller.get_extra_parameters() == build(FUSION="residual").get_extra_parameters()


def test_a_bad_checkpoint_is_refused_with_the_file_and_what_is_wanted(tmp_path):
    for name, content in (
        ("other.pth", {"model": build_model("resnet14", CLASSES).state_dict()}),
        ("no_model.pth", {"x": 1}),
    ):
        torch.save(content, tmp_path / name)
    (tmp_path / "text.pth").write_text("no checkpoint")
    wanted = "wanted: {'model': state_dict} of a trained student"
    for name in ("other.pth", "no_model.pth", "text.pth", "missing.pth"):
        with pytest.raises(UserError, match=rf"SDKD.SYNC_CKPT: .*{name}.*{wanted}"):
            build(SYNC="checkpoint", SYNC_CKPT=tmp_path / name)


@pytest.mark.parametrize(
    "settings",
    [{"SYNC": s} for s in ("step", "epoch", "init", "ema")] + [{"PROXY_BN": "student"}],
    ids=str,
)
def test_an_interrupted_run_goes_on_with_the_same_bits(settings):
    whole, resumed = build(**settings), build(seed=1, **settings)
    sgd = optimizer(whole)
    for number in range(2):
        step(whole, sgd, batch(number), epoch=1)
    sgd_resumed = optimizer(resumed)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    sgd_resumed.load_state_dict(copy.deepcopy(sgd.state_dict()))
    for number, epoch in ((2, 1), (3, 2)):
        assert step(whole, sgd, batch(number), epoch) == step(
            resumed, sgd_resumed, batch(number), epoch
        )
    assert equal_bits(whole, resumed)


# --- P's norms


def test_proxy_bn_student_uses_the_students_running_statistics():
    distiller = build(PROXY_BN="student", FUSION="residual")
    sgd = optimizer(distiller)
    step(distiller, sgd, batch(0))
    # the fusion at its start: P is the student, norms in eval mode
    distiller = build(PROXY_BN="student", FUSION="residual")
    distiller.student(batch(5)["image"])
    z_p, _ = run_proxy(distiller, batch()["image"])
    expected = copy.deepcopy(distiller.student).eval()(batch()["image"])[0]
    assert torch.equal(z_p, expected)
    fusion = distiller.proxy.model.layer1.fusion
    # the fusion's own norms do use the batch
    assert fusion.training and fusion.project[1].num_batches_tracked == 1
    assert (
        not distiller.proxy.model.bn1.training
        and distiller.proxy.model.bn1.num_batches_tracked == 0
    )


@pytest.mark.parametrize("norms", ["batch", "student"])
def test_two_forwards_before_one_backward_as_in_gradient_accumulation(norms):
    """The second forward changes S's running statistics in place.

    The first one's graph must not need them.
    """
    together, apart = build(PROXY_BN=norms), build(PROXY_BN=norms)
    losses = [sum(together(**batch(number))[1].values()) for number in range(2)]
    sum(losses).backward()
    for number in range(2):
        sum(apart(**batch(number))[1].values()).backward()
    for p, q in zip(
        together.get_learnable_parameters(), apart.get_learnable_parameters(), strict=True
    ):
        torch.testing.assert_close(p.grad, q.grad)


def test_proxy_bn_batch_moves_its_own_statistics():
    distiller = build()
    step(distiller, optimizer(distiller), batch())
    own = distiller.proxy.model.layer2.stage[0].bn1
    assert own.num_batches_tracked == 1
    # it sees the fused map
    assert not torch.equal(own.running_mean, distiller.student.layer2[0].bn1.running_mean)


# --- pairs, precisions, hosts


PAIRS = [  # teacher, student, slow
    ("resnet56", "resnet20", False),
    ("resnet110", "resnet20", True),
    ("resnet110", "resnet32", True),
    ("wrn_40_2", "wrn_16_2", False),
    ("wrn_40_2", "wrn_40_1", True),
    ("vgg13", "vgg8", True),
    ("resnet32x4", "resnet8x4", True),
    ("ResNet50", "MobileNetV2", True),
    ("vgg13", "MobileNetV2", True),
    ("resnet32x4", "ShuffleV1", True),
    ("resnet32x4", "ShuffleV2", True),
    ("wrn_40_2", "ShuffleV1", True),
]


@pytest.mark.parametrize(
    ("teacher", "student"),
    [pytest.param(t, s, marks=[pytest.mark.slow] if slow else []) for t, s, slow in PAIRS],
)
@pytest.mark.parametrize("kind", ["gate", "concat", "residual"])
def test_two_steps_of_every_pair(teacher, student, kind):
    distiller = build(student, teacher, FUSION=kind, loss={"FEAT_WEIGHT": 0.1})
    before, sgd = copy.deepcopy(distiller.state_dict()), optimizer(distiller)
    for number in range(2):
        losses = step(distiller, sgd, batch(number, size=32, n=4))
        assert all(torch.isfinite(value) for value in losses.values())
    after, trainable = (
        distiller.state_dict(),
        {n for n, _ in distiller.named_parameters() if not n.startswith("teacher.")},
    )
    assert [n for n in trainable if torch.equal(before[n], after[n])] == []
    assert [
        n for n in after if n.startswith("teacher.") and not torch.equal(before[n], after[n])
    ] == []


@pytest.mark.parametrize("kind", ["gate", "concat", "residual"])
@pytest.mark.parametrize(
    ("student", "teacher"),
    [("resnet8", "wrn_16_1"), ("MobileNetV2", "resnet8"), ("vgg8", "MobileNetV2")],
)
def test_bfloat16_autocast_in_channels_last(student, teacher, kind):
    """Maps of the teacher larger and smaller than the student's."""
    distiller = build(student, teacher, FUSION=kind, loss={"FEAT_WEIGHT": 0.5}).to(
        memory_format=torch.channels_last
    )
    data = batch(n=4)
    data["image"] = data["image"].to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, losses = distiller(**data)
    assert all(value.dtype is torch.float32 and torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in distiller.get_learnable_parameters())


@pytest.fixture
def mdistiller(monkeypatch):
    """The model dictionary of a real mdistiller checkout."""
    root = os.environ.get("MDISTILLER_ROOT")
    if not root:
        pytest.skip("needs a checkout of mdistiller; set MDISTILLER_ROOT to its folder")
    monkeypatch.syspath_prepend(root)
    return importlib.import_module("mdistiller.models.cifar").cifar_model_dict


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("resnet14", "resnet8"),
        ("wrn_16_1", "wrn_16_1"),
        ("vgg13", "vgg8"),
        ("resnet14", "MobileNetV2"),
        ("wrn_16_2", "ShuffleV1"),
        ("vgg8", "ShuffleV2"),
        ("ResNet50", "resnet8"),
        ("resnet8", "ResNet18"),
    ],
)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"STAGES": "[2]"},
        {"STAGES": "[3]"},
        {"SYNC": "epoch", "FUSION": "concat"},
        {"PROXY_BN": "student", "STAGES": "[2]"},
    ],
    ids=str,
)
def test_on_mdistillers_own_models_it_computes_the_same(mdistiller, teacher, student, settings):
    ours = build(student, teacher, loss={"FEAT_WEIGHT": 0.5}, **settings).double()
    models = []
    for name, source in ((student, ours.student), (teacher, ours.teacher)):
        model = mdistiller[name][0](num_classes=CLASSES)
        model.load_state_dict(source.state_dict())
        models.append(model)
    theirs = SDKD(*models, config({"FEAT_WEIGHT": 0.5}, **settings)).double().train()
    theirs.proxy.load_state_dict(ours.proxy.state_dict(), strict=False)
    for module in [*ours.student.modules(), *theirs.student.modules()]:
        if isinstance(module, _BatchNorm):
            # mdistiller's WRN moves three of its norms twice a step: with 1 that changes nothing
            module.momentum = 1.0
    data = batch(size=32, n=4, dtype=torch.float64)
    results = [distiller(**data) for distiller in (ours, theirs)]
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-9, atol=1e-9)
    for name, value in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], value, rtol=1e-8, atol=0)
    for name, value in ours.terms.items():
        torch.testing.assert_close(theirs.terms[name], value, rtol=1e-8, atol=1e-10)
    for _, losses in results:
        sum(losses.values()).backward()
    for p, q in zip(
        ours.get_learnable_parameters(), theirs.get_learnable_parameters(), strict=True
    ):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-5, atol=1e-8)

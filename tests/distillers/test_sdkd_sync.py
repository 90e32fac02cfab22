"""When SDKD's proxy takes over the student's weights, and whose statistics its norms have."""

import copy

import pytest
import torch
from support.sdkd_steps import (
    CLASSES,
    batch,
    build,
    equal_bits,
    optimizer,
    run_proxy,
    step,
)
from torch import Tensor

from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model


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


@pytest.mark.parametrize("sync", ["step", "epoch", "ema"])
@pytest.mark.parametrize("norms", ["batch", "student"])
def test_two_forwards_before_one_backward_as_in_gradient_accumulation(norms, sync):
    """The second forward changes S's running statistics in place, and P's weights.

    The first one's graph must not need them.
    """
    together, apart = (build(PROXY_BN=norms, SYNC=sync, FUSION="gate") for _ in range(2))
    losses = [sum(together(**batch(n), epoch=1 + n)[1].values()) for n in range(2)]
    sum(losses).backward()
    for number in range(2):
        sum(apart(**batch(number), epoch=1 + number)[1].values()).backward()
    for p, q in zip(
        together.get_learnable_parameters(), apart.get_learnable_parameters(), strict=True
    ):
        torch.testing.assert_close(p.grad, q.grad)


def test_proxy_bn_batch_moves_its_own_statistics():
    distiller = build(FUSION="gate")  # residual starts as the student
    step(distiller, optimizer(distiller), batch())
    own = distiller.proxy.model.layer2.stage[0].bn1
    assert own.num_batches_tracked == 1
    # it sees the fused map
    assert not torch.equal(own.running_mean, distiller.student.layer2[0].bn1.running_mean)

"""DOT: two momenta by hand, in its limits and beside a slow version; and runs that ask for it."""

from pathlib import Path

import pytest
import torch
from cases import CASES
from support.tiny import (
    assert_same_run,
    method_overrides,
    read,
    tiny_config,
    train_until_killed,
)
from torch import Tensor

from sdkd_plugin.engine.dot import DOT
from sdkd_plugin.engine.lockstep import train_together
from sdkd_plugin.engine.optimizer import make_optimizer
from sdkd_plugin.engine.restore import optimizer_fault
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS
from sdkd_plugin.runs.folder import RunFolder
from sdkd_plugin.runs.identity import run_identity

BY_NAME = {case.name: case for case in CASES}
SPLITTING = [case for case in CASES if METHODS[case.name].build.splits_losses]
# what a run is made of: plain; parameters that loss_kd alone reaches; negatives; two phases, the
# first of which trains the teacher; two networks that learn
KINDS = [BY_NAME[name] for name in ("KD", "REVIEWKD", "CRD", "SOTEACHER", "DML")]
DOT_RUN = {"SOLVER.OPTIMIZER": "dot"}


def descend(optimizer: DOT, kd: list[Tensor | None], task: list[Tensor | None]) -> None:
    """A step whose gradients are given, one for each parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for gradients, then in ((kd, optimizer.hold_kd), (task, optimizer.step)):
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = None if gradient is None else gradient.clone()
        then()


def weights(count: int = 1) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, dtype=torch.float64).requires_grad_() for _ in range(count)]


def number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_three_steps_by_hand():
    w = number(1.0).requires_grad_()
    optimizer = DOT([w], lr=0.5, momentum=0.5, momentum_kd=1.0, weight_decay=0.25)
    # u = 0.5 u + g_task + 0.25 w, v = v + g_kd, w = w - (u + v) / 2
    descend(optimizer, [number(1.0)], [number(0.75)])  # u = 1, v = 1
    assert w.item() == 0.0
    descend(optimizer, [number(1.0)], [number(0.0)])  # u = 0.5, v = 2
    assert w.item() == -1.25
    descend(optimizer, [number(-2.0)], [number(0.0625)])  # u = 0, v = 0
    assert w.item() == -1.25
    state = optimizer.state[w]
    assert (state["momentum_buffer"].item(), state["momentum_kd_buffer"].item()) == (0.0, 0.0)


def test_with_equal_momenta_it_is_sgd_on_the_sum():
    ours, theirs = weights(2), weights(2)
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    dot = DOT(ours, momentum_kd=0.9, **settings)
    plain = torch.optim.SGD(theirs, **settings)
    for _ in range(20):
        kd, task = ([torch.randn(3, dtype=torch.float64) for _ in ours] for _ in range(2))
        descend(dot, kd, task)
        for p, a, b in zip(theirs, kd, task, strict=True):
            p.grad = a + b
        plain.step()
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)


def slow(w: list[float], steps: list, lr: float, mu: float, mu_kd: float, decay: float) -> list:
    """Number by number, one parameter of one number each; None is no gradient."""
    u: list = [None] * len(w)
    v: list = [None] * len(w)
    for kd, task in steps:
        for i in range(len(w)):
            alone = kd[i] is None or task[i] is None
            mean = (mu + mu_kd) / 2
            before = w[i]
            if task[i] is not None:
                pull = task[i] + decay * before
                u[i] = pull if u[i] is None else (mean if alone else mu) * u[i] + pull
                w[i] -= lr * u[i]
            if kd[i] is not None:
                pull = kd[i] + (decay * before if alone else 0.0)
                v[i] = pull if v[i] is None else (mean if alone else mu_kd) * v[i] + pull
                w[i] -= lr * v[i]
    return w


def test_what_one_loss_alone_reaches_equals_a_slow_version():
    """Parameters that both reach, one alone, and each now and then."""
    torch.manual_seed(1)
    reached = [(True, True), (True, False), (False, True), (None, True), (True, None), (None, None)]
    steps = []
    for step in range(12):
        kd, task = [], []
        for number_, (by_kd, by_task) in enumerate(reached):
            now = (step + number_) % 3 != 0
            kd.append(torch.randn(()).item() if (now if by_kd is None else by_kd) else None)
            task.append(torch.randn(()).item() if (now if by_task is None else by_task) else None)
        steps.append((kd, task))

    start = [1.0, -2.0, 0.5, 3.0, -1.0, 2.0]
    parameters = [number(value).requires_grad_() for value in start]
    settings = {"lr": 0.1, "momentum": 0.8, "momentum_kd": 0.95, "weight_decay": 0.05}
    optimizer = DOT(parameters, **settings)
    for gradients in steps:
        kd, task = ([None if g is None else number(g) for g in part] for part in gradients)
        descend(optimizer, kd, task)
    found = [p.item() for p in parameters]
    assert found == pytest.approx(slow(list(start), steps, 0.1, 0.8, 0.95, 0.05), rel=1e-12)


def test_a_group_has_its_own_learning_rate():
    one, two = number(0.0).requires_grad_(), number(0.0).requires_grad_()
    groups = [{"params": [one]}, {"params": [two], "lr": 0.25}]
    optimizer = DOT(groups, lr=1.0, momentum=0.5, momentum_kd=0.5, weight_decay=0.0)
    descend(optimizer, [number(1.0)] * 2, [number(3.0)] * 2)
    assert (one.item(), two.item()) == (-4.0, -1.0)


def test_no_momentum_leaves_no_buffer():
    (w,) = weights()
    optimizer = DOT([w], lr=1.0, momentum=0.0, momentum_kd=0.0, weight_decay=0.0)
    for _ in range(2):
        before = w.detach().clone()
        descend(optimizer, [torch.ones(3).double()], [torch.ones(3).double()])
        torch.testing.assert_close(w.detach(), before - 2, rtol=0, atol=1e-15)
    assert not optimizer.state_dict()["state"]


def test_a_step_that_nothing_was_held_for_has_no_distillation():
    w = number(0.0).requires_grad_()
    optimizer = DOT([w], lr=1.0, momentum=0.5, momentum_kd=0.75, weight_decay=0.0)
    descend(optimizer, [number(1.0)], [number(8.0)])  # u = 8, v = 1
    w.grad = number(0.0)
    optimizer.step()  # u = (0.5 + 0.75) / 2 of 8
    assert (w.item(), optimizer.state[w]["momentum_kd_buffer"].item()) == (-9.0 - 5.0, 1.0)


def test_the_task_has_the_smaller_momentum(tmp_path):
    solver = tiny_config(tmp_path, {"DISTILLER.TYPE": "KD", **DOT_RUN}).SOLVER
    (group,) = make_optimizer([{"params": weights()}], solver).param_groups
    assert (group["momentum"], group["momentum_kd"]) == pytest.approx((0.825, 0.975))


def run(folder: Path, teacher: Path, case=BY_NAME["KD"], **overrides):
    more = {key.replace("__", "."): value for key, value in overrides.items()}
    return tiny_config(folder, {**method_overrides(case, teacher), **DOT_RUN, **more})


@pytest.mark.parametrize("case", SPLITTING, ids=lambda case: case.name)
def test_every_method_with_both_losses_takes_its_steps(case, teacher, tmp_path):
    """And the two buffers of what both reach are not alike."""
    folder = train(run(tmp_path, teacher, case, SOLVER__EPOCHS=1)).path
    state = read(folder / "latest")["optimizer"]["state"]
    both = [buffers for buffers in state.values() if len(buffers) == 2]
    assert both
    assert all(not torch.equal(*buffers.values()) for buffers in both)


def test_methods_without_both_losses_are_refused_before_anything_is_read(tmp_path):
    refused = {entry.name for entry in METHODS if not entry.build.splits_losses}
    assert refused == {"NONE", "AB", "FSP", "FT", "DISTPRO"}
    for name in refused:
        with pytest.raises(UserError, match=f"but {name} does not always .* allowed for it: sgd"):
            tiny_config(tmp_path, {"DISTILLER.TYPE": name, **DOT_RUN})


def test_a_phase_without_both_losses_is_told_in_its_first_step(teacher, tmp_path):
    cfg = run(tmp_path, teacher, BY_NAME["FITNET"], FITNET__INIT_EPOCHS=240)
    with pytest.raises(
        UserError, match="but FitNet in its phase 'init' has loss_kd; allowed for it: sgd"
    ):
        train(cfg)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"SOLVER.DOT.DELTA": 0.2}, "SOLVER.DOT.DELTA is 0.2 and SOLVER.MOMENTUM 0.9; allowed: "),
        ({"SOLVER.DOT.DELTA": -0.2}, "SOLVER.DOT.DELTA is -0.2 and SOLVER.MOMENTUM 0.9; allowed: "),
        ({"SOLVER.MOMENTUM": 0.05}, "SOLVER.DOT.DELTA is 0.075 and SOLVER.MOMENTUM 0.05; allowed"),
        ({"SOLVER.PRECISION": "fp16"}, "SOLVER.PRECISION is 'fp16', .* allowed with it: fp32, bf1"),
    ],
)
def test_settings_that_do_not_go_with_it_are_refused(overrides, told, tmp_path):
    with pytest.raises(UserError, match=told):
        tiny_config(tmp_path, {"DISTILLER.TYPE": "KD", **DOT_RUN, **overrides})
    without_dot = {key: v for key, v in overrides.items() if "PRECISION" not in key}
    tiny_config(tmp_path, {"DISTILLER.TYPE": "KD", **without_dot})


def folder_of(prefix: Path, **overrides) -> RunFolder:
    more = {key.replace("__", "."): value for key, value in overrides.items()}
    cfg = tiny_config(prefix, {"DISTILLER.TYPE": "KD", **more})
    return RunFolder(cfg, run_identity(cfg, {"data": "d"}, "t"))


def test_it_decides_the_run_and_mdistillers_other_trainers_do_not(tmp_path):
    plain = folder_of(tmp_path)
    assert not {"SOLVER.TRAINER", "SOLVER.OPTIMIZER", "SOLVER.DOT.DELTA"} & plain.identity.keys()
    for trainer in ("base", "crd", "phases"):
        same = folder_of(tmp_path, SOLVER__TRAINER=trainer, SOLVER__DOT__DELTA=0.05)
        assert (same.path, same.identity) == (plain.path, plain.identity)

    dot = folder_of(tmp_path, SOLVER__OPTIMIZER="dot")
    assert dot.path != plain.path
    assert dot.identity == {
        **plain.identity,
        "SOLVER.OPTIMIZER": "dot",
        "SOLVER.DOT.DELTA": 0.075,
    }
    for trainer in ("dot", "crd_dot"):  # mdistiller's names of it
        assert folder_of(tmp_path, SOLVER__TRAINER=trainer).path == dot.path
    other = folder_of(tmp_path, SOLVER__OPTIMIZER="dot", SOLVER__DOT__DELTA=0.05)
    assert other.path != dot.path


@pytest.mark.parametrize("case", KINDS, ids=lambda case: case.name)
def test_a_run_resumes_to_the_bit(case, teacher, tmp_path):
    cfg = run(tmp_path / "parts", teacher, case)
    with pytest.MonkeyPatch.context() as patch:
        taken, step = [], Trainer.step
        patch.setattr(Trainer, "step", lambda self, *a: (taken.append(1), step(self, *a))[1])
        whole = train(run(tmp_path / "whole", teacher, case)).path
    train_until_killed(cfg, steps=len(taken) // 2 + 1)
    assert_same_run(whole, train(cfg, resume=True).path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda s: s["param_groups"][0].update(momentum_kd=0.9), "has another momentum_kd"),
        (lambda s: s["param_groups"][0].update(momentum=0.9), "has another momentum"),
        (lambda s: s["state"][0].update(momentum_kd_buffer=torch.ones(2)), "momentum 0 of its opt"),
        (lambda s: s["state"][0].update(third=torch.ones(3)), "has the strange state 0"),
        (lambda s: s["state"][0].clear(), "has the strange state 0"),
    ],
)
def test_another_optimisers_state_is_no_state_of_it(spoil, told, tmp_path):
    solver = tiny_config(tmp_path, {"DISTILLER.TYPE": "KD", **DOT_RUN}).SOLVER
    plain = tiny_config(tmp_path, {"DISTILLER.TYPE": "KD"}).SOLVER
    groups = [{"params": weights(), "lr_factor": 1.0}]
    optimizer = make_optimizer(groups, solver)
    descend(optimizer, [torch.ones(3).double()], [torch.ones(3).double()])
    state = optimizer.state_dict()
    assert optimizer_fault(state, groups, solver) == ""
    assert optimizer_fault(state, groups, plain) == "its optimizer has another momentum"
    spoil(state)
    assert told in optimizer_fault(state, groups, solver)


def test_it_trains_in_lockstep_with_runs_of_one_momentum(teacher, tmp_path):
    def configs(folder: Path) -> list:
        plain = tiny_config(folder, method_overrides(BY_NAME["DKD"], teacher))
        return [run(folder, teacher), plain, run(folder, teacher, BY_NAME["REVIEWKD"])]

    assert sorted(train_together(configs(tmp_path / "together"))) == [(n, None) for n in range(3)]
    for cfg in configs(tmp_path / "alone"):
        alone = train(cfg).path
        assert_same_run(tmp_path / "together" / alone.relative_to(tmp_path / "alone"), alone)

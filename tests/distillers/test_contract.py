"""What every method must hold, whatever its loss, in each of its phases.

tests/cases.py says which methods there are.
"""

import importlib
import inspect
import io
import pkgutil
from pathlib import Path

import pytest
import torch
from cases import CASES, Case
from support.loop import BATCH, NUM_CLASSES, batch, build, make_loop, same, snapshot

from sdkd_plugin import distillers
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.errors import UserError
from sdkd_plugin.registry import METHODS

REPO = Path(__file__).resolve().parents[2]
every_method = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def trained_names(case: Case, distiller: Distiller) -> set[str]:
    """What the method has to train.

    All parameters but a frozen teacher's and those its row excepts.
    """
    excepted = (*case.untrained, *(["teacher."] if distiller.teacher_from == "checkpoint" else []))
    return {name for name, _ in distiller.named_parameters() if not name.startswith(excepted)}


@every_method
def test_two_steps_of_a_phase_change_every_tensor_it_trains_and_nothing_else(case):
    loop = make_loop(case)
    distiller, ever_trained = loop.distiller, set()
    for phase in loop.phases:
        loop.enter(phase)
        before, trained = (
            snapshot(distiller),
            {name for name, p in distiller.named_parameters() if p.requires_grad},
        )
        loop.step(0), loop.step(1)
        moved = {
            name
            for name, value in distiller.state_dict().items()
            if not torch.equal(value, before[name])
        }
        assert trained - moved == set(), f"phase {phase.name} trains these, but they stood still"
        assert {name for name, _ in distiller.named_parameters()} & moved == trained
        for network in (
            "student.",
            "teacher.",
        ):  # running statistics, too, stand still where nothing is trained
            if not any(name.startswith(network) for name in trained):
                assert not any(name.startswith(network) for name in moved)
        ever_trained |= trained
    assert ever_trained == trained_names(case, distiller)


@every_method
def test_learnable_parameters_are_all_but_a_frozen_teachers(case):
    distiller = build(case)
    expected = {
        p for name, p in distiller.named_parameters() if name in trained_names(case, distiller)
    }
    learnable, students = distiller.get_learnable_parameters(), set(distiller.student.parameters())
    assert len(set(learnable)) == len(learnable) and set(learnable) == expected
    assert (distiller.teacher is None) == (distiller.teacher_from == "none")
    assert distiller.teacher_from != "checkpoint" or not any(
        p.requires_grad for p in distiller.teacher.parameters()
    )
    extra = sum(p.numel() for p in expected - students) - sum(
        p.numel() for p in students - expected
    )
    assert distiller.get_extra_parameters() == extra


@every_method
def test_losses_are_finite_scalars_with_the_names_that_mdistillers_trainers_read(case):
    loop = make_loop(case)
    for phase in loop.phases:
        loop.enter(phase)
        logits, losses = loop.forward(0)
        assert logits.shape == (BATCH, NUM_CLASSES)
        assert (
            losses
            and set(losses) <= {"loss_ce", "loss_kd"}
            and ("loss_ce" in losses or not phase.scores)
        )
        for value in [*losses.values(), *loop.distiller.terms.values()]:
            assert value.shape == () and torch.isfinite(value)
        assert not any(term.requires_grad for term in loop.distiller.terms.values())
    assert phase.scores


# the methods whose last phase compares the teacher's logits, or its classifier's maps, with the
# student's; the others do not ask how many classes the teacher knows
SAME_CLASSES = {
    *("KD", "DKD", "SDKD", "SRRL", "SEMCKD", "NORM", "RLD", "CTKD", "DIST", "NORMKD", "TTM"),
    *("WTTM", "CAT_KD", "SDD", "MLLD", "LOGITMSE"),  # the last is examples/outside's
}


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if METHODS[case.name].build.teacher_from == "checkpoint"],
    ids=lambda case: case.name,
)
def test_a_teacher_of_other_classes_is_refused_in_one_line_wherever_they_matter(case):
    distiller = build(case, classes=NUM_CLASSES + 2).train()
    if case.name in SAME_CLASSES:
        with pytest.raises(UserError, match="shapes .* both must be .*classes") as refusal:
            distiller(**batch(distiller, 0), epoch=1)
        assert "\n" not in str(refusal.value)
    else:
        _, losses = distiller(**batch(distiller, 0), epoch=1)
        assert all(torch.isfinite(loss) for loss in losses.values())


@every_method
def test_a_loop_without_phases_gets_the_last_phases_losses(case):
    loop, plain = make_loop(case), build(case).train()
    loop.enter(loop.phases[-1])
    _, losses = plain(**batch(plain, 0), epoch=1)  # as mdistiller's trainers do
    assert losses.keys() == loop.forward(0)[1].keys()


@every_method
def test_eval_forward_is_the_deployed_networks_logits(case):
    loop = make_loop(case)
    loop.enter(loop.phases[-1])
    loop.step(0)
    distiller = loop.distiller.eval()
    image = batch(distiller, 1)["image"]
    assert torch.equal(distiller(image=image), distiller.deployed().eval()(image)[0])


@every_method
def test_train_and_eval_leave_a_frozen_teacher_in_eval(case):
    loop = make_loop(case)
    for phase in loop.phases:
        loop.enter(phase)
        loop.forward(0)
        for mode in (True, False, True):
            assert loop.distiller.teacher_from != "checkpoint" or not any(
                m.training for m in loop.distiller.teacher.modules()
            )
            loop.distiller.train(mode)
            assert mode or not any(module.training for module in loop.distiller.modules())
            assert loop.distiller.student.training == mode or not phase.scores


@every_method
def test_a_saved_state_continues_with_the_same_bits(case):
    first = make_loop(case, seed=0)
    for phase in first.phases:
        first.enter(phase)
        first.step(0)
        file = io.BytesIO()
        torch.save(
            {"model": first.distiller.state_dict(), "optimizer": first.optimizer.state_dict()}, file
        )
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        second = make_loop(case, seed=1)
        second.enter(phase, begin=False)
        assert not same(snapshot(first.distiller), snapshot(second.distiller))
        second.distiller.load_state_dict(saved["model"])
        second.optimizer.load_state_dict(saved["optimizer"])
        assert torch.equal(first.step(1), second.step(1))
        assert same(snapshot(first.distiller), snapshot(second.distiller))


@every_method
def test_two_instances_in_one_process_do_not_interfere(case):
    alone, first, other = make_loop(case), make_loop(case), make_loop(case, seed=1)
    for phase in alone.phases:
        alone.enter(phase), alone.step(0), alone.step(1)
    for phase in first.phases:
        first.enter(phase), other.enter(phase)
        first.step(0), other.step(3), first.step(1)
    assert same(snapshot(alone.distiller), snapshot(first.distiller))
    assert not same(snapshot(alone.distiller), snapshot(other.distiller))


@every_method
def test_losses_stay_float32_under_bfloat16_autocast(case):
    loop = make_loop(case)
    for phase in loop.phases:
        loop.enter(phase)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, losses = loop.forward(0)
        assert logits.dtype == torch.bfloat16  # the test is about something
        for value in [*losses.values(), *loop.distiller.terms.values()]:
            assert value.dtype == torch.float32 and torch.isfinite(value)
        sum(losses.values()).backward()
        for parameter in loop.distiller.get_learnable_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all()


@every_method
def test_channels_last_changes_rounding_only(case):
    plain, last = make_loop(case), make_loop(case)
    last.layout = torch.channels_last
    last.distiller.to(memory_format=last.layout)
    for loop in (plain, last):  # in float32 the rounding depends on the processor
        loop.dtype = torch.float64
        loop.distiller.double()
    for phase in plain.phases:
        plain.enter(phase), last.enter(phase)
        _, expected = plain.forward(0)
        _, losses = last.forward(0)
        for name, value in losses.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-10)


def own_distillers(file: str) -> list[type]:
    """The distiller classes that distillers/<file>.py itself defines.

    Abstract ones, which methods share, are left out.
    """
    module = importlib.import_module(f"{distillers.__name__}.{file}")
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Distiller)
    ]
    own = [
        value for value in classes if value.__module__ == module.__name__ and value is not Distiller
    ]
    return [value for value in own if not inspect.isabstract(value)]


METHOD_FILES = [
    module.name
    for module in pkgutil.iter_modules(distillers.__path__)
    if own_distillers(module.name)
]


@pytest.mark.parametrize("file", METHOD_FILES)
def test_each_file_is_one_method_with_card_config_and_test_row(file):
    names = [entry.name for entry in METHODS if entry.build in own_distillers(file)]
    assert len(names) == 1, f"distillers/{file}.py registers {names}; one file is one method"
    assert (REPO / "docs" / "methods" / f"{file}.md").is_file()
    assert list((REPO / "configs" / "cifar100" / file).glob("*.yaml"))
    assert [case.name for case in CASES].count(names[0]) == 1, (
        f"tests/cases.py needs one row for {names[0]}"
    )


def test_no_method_is_registered_elsewhere():
    assert {entry.build for entry in METHODS} <= {
        value for file in METHOD_FILES for value in own_distillers(file)
    }

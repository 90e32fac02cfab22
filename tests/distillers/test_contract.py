"""What every method must hold, whatever its loss: tests/cases.py says which methods there are."""

import importlib
import io
import pkgutil
from pathlib import Path

import pytest
import torch
from cases import CASES, Case
from torch import Tensor, nn

from sdkd_plugin import distillers
from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.engine.randomness import torch_seeded
from sdkd_plugin.models import build_model
from sdkd_plugin.registry import METHODS

REPO = Path(__file__).resolve().parents[2]
HELPERS = {"base", "probe"}  # files in distillers/ that are no method
FILES = sorted({module.name for module in pkgutil.iter_modules(distillers.__path__)} - HELPERS)
NUM_DATA, NUM_CLASSES, BATCH = 40, 10, 8

every_method = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def build(case: Case, seed: int = 0) -> Distiller:
    """The method with its default config, resnet14 teaching resnet8."""
    pairs = {"DISTILLER.TYPE": case.name, **case.overrides}
    cfg = load_config(None, [str(word) for pair in pairs.items() for word in pair])
    method = METHODS[case.name].build
    with torch_seeded(seed, "test"):
        student = build_model("resnet8", NUM_CLASSES)
        teacher = build_model("resnet14", NUM_CLASSES) if method.teacher_from != "none" else None
        return method(student, teacher, cfg, *([NUM_DATA] if method.needs_num_data else []))


def batch(distiller: Distiller, number: int) -> dict[str, Tensor]:
    """What the loop hands to `forward_train` in step `number`, counted from 0."""
    with torch_seeded(number, "batch"):
        data = {
            "image": torch.randn(BATCH, 3, 16, 16),
            "target": torch.randint(NUM_CLASSES, (BATCH,)),
            "index": torch.arange(number * BATCH, (number + 1) * BATCH),
        }
        if distiller.needs_negatives:
            negatives = torch.randint(NUM_DATA, (BATCH, distiller.num_negatives))
            data["contrastive_index"] = torch.cat([data["index"][:, None], negatives], dim=1)
    return data


class Loop:
    """The least a trainer does."""

    def __init__(self, distiller: Distiller):
        self.distiller = distiller.train()
        parameters = distiller.get_learnable_parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)

    def step(self, number: int) -> Tensor:
        _, losses = self.distiller(**batch(self.distiller, number), epoch=1)
        loss = sum(losses.values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@every_method
def test_two_steps_change_every_trainable_tensor_and_no_bit_of_the_teacher(case):
    distiller = build(case)
    before = snapshot(distiller)
    trainable = {name for name, _ in distiller.named_parameters() if not name.startswith("teacher.")}
    loop = Loop(distiller)
    loop.step(0), loop.step(1)
    after = distiller.state_dict()
    assert [name for name in trainable if torch.equal(before[name], after[name])] == []
    assert [name for name in after if name.startswith("teacher.") and not torch.equal(before[name], after[name])] == []
    assert any(name.startswith("teacher.") for name in after) == (distiller.teacher_from != "none")


@every_method
def test_learnable_parameters_are_all_but_the_teachers(case):
    distiller = build(case)
    teacher = set() if distiller.teacher is None else set(distiller.teacher.parameters())
    learnable = distiller.get_learnable_parameters()
    assert len(set(learnable)) == len(learnable)
    assert set(learnable) == set(distiller.parameters()) - teacher
    assert set(distiller.student.parameters()) <= set(learnable)
    assert all(p.requires_grad for p in learnable) and not any(p.requires_grad for p in teacher)
    extra = sum(p.numel() for p in learnable) - sum(p.numel() for p in distiller.student.parameters())
    assert distiller.get_extra_parameters() == extra


@every_method
def test_losses_are_finite_scalars_with_the_names_that_mdistillers_trainers_read(case):
    distiller = build(case).train()
    data = batch(distiller, 0)
    logits, losses = distiller(**data, epoch=1)
    assert logits.shape == (BATCH, NUM_CLASSES)
    assert "loss_ce" in losses and set(losses) <= {"loss_ce", "loss_kd"}
    for value in [*losses.values(), *distiller.terms.values()]:
        assert value.shape == () and torch.isfinite(value)
    assert not any(term.requires_grad for term in distiller.terms.values())


@every_method
def test_eval_forward_is_the_students_logits(case):
    distiller = build(case)
    Loop(distiller).step(0)
    distiller.eval()
    image = batch(distiller, 1)["image"]
    assert torch.equal(distiller(image=image), distiller.student(image)[0])


@every_method
def test_train_and_eval_leave_the_teacher_in_eval(case):
    distiller = build(case)
    for mode in (True, False, True):
        distiller.train(mode)
        assert distiller.student.training == mode
        assert distiller.teacher is None or not any(module.training for module in distiller.teacher.modules())


@every_method
def test_a_saved_state_continues_with_the_same_bits(case):
    first, second = Loop(build(case, seed=0)), Loop(build(case, seed=1))
    first.step(0)
    file = io.BytesIO()
    torch.save({"model": first.distiller.state_dict(), "optimizer": first.optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert not same(snapshot(first.distiller), snapshot(second.distiller))
    second.distiller.load_state_dict(saved["model"])
    second.optimizer.load_state_dict(saved["optimizer"])
    assert torch.equal(first.step(1), second.step(1))
    assert same(snapshot(first.distiller), snapshot(second.distiller))


@every_method
def test_two_instances_in_one_process_do_not_interfere(case):
    alone = Loop(build(case))
    alone.step(0), alone.step(1)
    first, other = Loop(build(case)), Loop(build(case, seed=1))
    first.step(0), other.step(3), first.step(1)
    assert same(snapshot(alone.distiller), snapshot(first.distiller))
    assert not same(snapshot(alone.distiller), snapshot(other.distiller))


@every_method
def test_losses_stay_float32_under_bfloat16_autocast(case):
    distiller = build(case).train()
    data = batch(distiller, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, losses = distiller(**data, epoch=1)
    assert logits.dtype == torch.bfloat16  # the test is about something
    for value in [*losses.values(), *distiller.terms.values()]:
        assert value.dtype == torch.float32 and torch.isfinite(value)
    sum(losses.values()).backward()
    for parameter in distiller.get_learnable_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


@every_method
def test_channels_last_changes_rounding_only(case):
    plain, last = build(case).train(), build(case).train().to(memory_format=torch.channels_last)
    data = batch(plain, 0)
    _, expected = plain(**data, epoch=1)
    _, losses = last(**{**data, "image": data["image"].to(memory_format=torch.channels_last)}, epoch=1)
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file", FILES)
def test_each_file_is_one_method_with_card_config_and_test_row(file):
    module = importlib.import_module(f"{distillers.__name__}.{file}").__name__
    names = [entry.name for entry in METHODS if entry.build.__module__ == module]
    assert len(names) == 1, f"distillers/{file}.py registers {names}; one file is one method"
    assert issubclass(METHODS[names[0]].build, Distiller)
    assert (REPO / "docs" / "methods" / f"{file}.md").is_file()
    assert list((REPO / "configs" / "cifar100" / file).glob("*.yaml"))
    assert [case.name for case in CASES].count(names[0]) == 1, f"tests/cases.py needs one row for {names[0]}"

"""The loop against plain PyTorch, and what it must leave alone."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import CASES
from support.tiny import (
    assert_bits_equal,
    method_overrides,
    metrics,
    read,
    save_teacher,
    state_copy,
    tiny_config,
    train_until_killed,
)
from torch import nn
from yacs.config import CfgNode as CN

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.data.batches import TrainBatches
from sdkd_plugin.data.dataset import Dataset, load_dataset
from sdkd_plugin.distillers.base import Distiller
from sdkd_plugin.engine.build import build_distiller, build_teacher
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.recorder import best_row
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.schedule import learning_rate
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.errors import UserError
from sdkd_plugin.models import build_model
from sdkd_plugin.registry import METHODS
from sdkd_plugin.runs.teacher import loads_teacher, teacher_path

every_method = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of two different teachers."""
    folder = tmp_path_factory.mktemp("teachers")
    return {name: save_teacher(folder / name, name) for name in ("resnet14", "resnet20")}


def assemble(tmp_path: Path, overrides: dict) -> tuple[Distiller, Dataset, Trainer]:
    cfg = scaled_config(tiny_config(tmp_path, overrides))
    dataset = load_dataset(cfg)
    distiller = build_distiller(cfg, dataset, teacher_of(cfg))
    return distiller, dataset, Trainer(cfg, distiller, dataset, make_accelerator(cfg))


def teacher_of(cfg: CN) -> nn.Module | None:
    return build_teacher(cfg, 10, teacher_path(cfg) if loads_teacher(cfg) else None)


def test_the_learning_rate_falls_after_the_epochs_the_config_names():
    cfg = scaled_config(load_config(None))
    rates = {epoch: learning_rate(cfg, epoch) for epoch in (1, 150, 151, 180, 181, 210, 211, 240)}
    by_hand = {1: 5e-2, 150: 5e-2, 151: 5e-3, 180: 5e-3, 181: 5e-4, 210: 5e-4, 211: 5e-5, 240: 5e-5}
    assert rates == pytest.approx(by_hand)


def test_the_learning_rate_of_a_short_run_falls_at_the_scaled_epochs():
    cfg = scaled_config(load_config(None, ["SOLVER.EPOCHS", "30", "SOLVER.SCHEDULE_EPOCHS", "240"]))
    # after 18.75, 22.5 and 26.25 epochs
    by_hand = [5e-2] * 18 + [5e-3] * 4 + [5e-4] * 4 + [5e-5] * 4
    assert [learning_rate(cfg, epoch) for epoch in range(1, 31)] == pytest.approx(by_hand)


def plain_loop(cfg, student: nn.Module, teacher: nn.Module | None) -> list[tuple[float, float]]:
    """What anybody would write; returns each epoch's mean loss and top-1 per image."""
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, foreach=False
    )
    dataset, history = load_dataset(cfg), []
    batches = TrainBatches(dataset, cfg, "cpu")
    student.train()
    for epoch in range(1, cfg.SOLVER.EPOCHS + 1):
        optimizer.param_groups[0]["lr"] = 0.05 if epoch <= 2 else 0.005
        total, correct = 0.0, 0
        for batch in batches.epoch(epoch):
            logits, _ = student(batch.image)
            loss = F.cross_entropy(logits, batch.target)
            if teacher is not None:
                with torch.no_grad():
                    soft = F.softmax(teacher(batch.image)[0] / 4, dim=1)
                kl = (soft * (soft.log() - F.log_softmax(logits / 4, dim=1))).sum(1).mean()
                loss = 0.1 * loss + 0.9 * 16 * kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch.target)
            correct += int((logits.argmax(1) == batch.target).sum())
        history.append((total / len(dataset.train), 100 * correct / len(dataset.train)))
    return history


@pytest.mark.parametrize("method", ["NONE", "KD"])
def test_training_equals_a_plain_loop(method, teachers, tmp_path):
    overrides = {
        "DISTILLER.TYPE": method,
        "DISTILLER.TEACHER_CKPT": teachers["resnet14"],
        "SOLVER.CHANNELS_LAST": False,
    }
    cfg = tiny_config(tmp_path, overrides)
    dataset = load_dataset(cfg)
    teacher = teacher_of(cfg)
    student = copy.deepcopy(build_distiller(cfg, dataset, copy.deepcopy(teacher)).student)
    start = state_copy(student)
    history = plain_loop(cfg, student, teacher)
    folder = train(cfg).path
    trained = read(folder / "student_latest")["model"]
    moved = 0.0
    for key, value in student.state_dict().items():
        torch.testing.assert_close(trained[key], value, rtol=1e-6, atol=1e-6)
        moved += (value - start[key]).abs().sum().item()
    assert moved > 10, "the comparison is about weights that were trained"
    for row, (loss, top1) in zip(metrics(folder), history, strict=True):
        assert float(row["train_loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(row["train_top1"]) == pytest.approx(top1, rel=1e-6)


@every_method
def test_training_changes_the_student_and_neither_teacher_nor_torchs_generator(
    case, teachers, tmp_path
):
    generator = torch.random.get_rng_state()
    distiller, _, trainer = assemble(tmp_path, method_overrides(case, teachers["resnet14"]))
    student = state_copy(distiller.student)
    frozen = state_copy(distiller.teacher) if distiller.teacher_from == "checkpoint" else {}
    for phase in distiller.phases(trainer.cfg):
        trainer.enter(phase, begin=True)
        trainer.train_epoch(1)
    trainer.evaluate(1)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert_bits_equal(state_copy(distiller.teacher) if frozen else {}, frozen)
    assert not torch.equal(distiller.student.state_dict()["conv1.weight"], student["conv1.weight"])


def initial_student(tmp_path: Path, overrides: dict) -> dict:
    cfg = tiny_config(tmp_path, overrides)
    dataset = load_dataset(cfg)
    return state_copy(build_distiller(cfg, dataset, teacher_of(cfg)).student)


@every_method
def test_a_seeds_student_starts_the_same_whatever_method_and_teacher_it_gets(
    case, teachers, tmp_path
):
    alone = initial_student(tmp_path, {"DISTILLER.TYPE": "NONE"})
    for name, path in teachers.items():
        torch.manual_seed(len(name))  # nor does it matter what was drawn before
        overrides = {"DISTILLER.TEACHER": name, **method_overrides(case, path)}
        assert_bits_equal(initial_student(tmp_path, overrides), alone)


def test_another_seeds_student_starts_elsewhere(tmp_path):
    zero, one = (initial_student(tmp_path, {"SOLVER.SEED": seed}) for seed in (0, 1))
    assert not torch.equal(zero["conv1.weight"], one["conv1.weight"])


def test_an_epoch_may_be_trained_without_the_ones_before(tmp_path):
    """Its order, crops and dropout come from (seed, epoch) alone."""
    first, _, trainer = assemble(tmp_path, {})
    phase = first.phases(trainer.cfg)[0]
    trainer.enter(phase, begin=True)
    trainer.train_epoch(3)
    second, _, trainer = assemble(tmp_path, {})
    start = state_copy(second)
    trainer.enter(phase, begin=True)
    trainer.train_epoch(1)
    second.load_state_dict(start)
    trainer.enter(phase, begin=True)
    trainer.train_epoch(3)
    assert_bits_equal(state_copy(first), state_copy(second))


def test_a_loss_that_is_not_finite_is_named_and_costs_no_saved_epoch(tmp_path):
    """LR 1e20 in the third epoch only: the first two are saved and must stay."""
    cfg = tiny_config(tmp_path, {"SOLVER.LR_DECAY_STAGES": [2], "SOLVER.LR_DECAY_RATE": 1e22})
    with pytest.raises(
        UserError, match=r"loss is not finite at epoch 3, step 2: loss_ce = nan; lower SOLVER\.LR"
    ):
        train(cfg)
    (latest,) = tmp_path.rglob("latest")
    state = read(latest)
    assert state["epoch"] == 2 and all(value.isfinite().all() for value in state["model"].values())
    assert len(metrics(latest.parent)) == 2


def test_a_loss_that_becomes_infinite_only_in_the_last_step_is_not_saved_either(tmp_path):
    """Without the check on the evaluated loss, nan weights would be saved and end as a result."""
    with pytest.raises(UserError, match=r"the evaluated loss is (nan|inf) after epoch 1"):
        train(tiny_config(tmp_path, {"SOLVER.LR": 1e20, "SOLVER.BATCH_SIZE": 143}))
    assert not list(tmp_path.rglob("latest"))


def test_a_term_that_is_not_finite_is_named(teachers, tmp_path):
    _, dataset, trainer = assemble(
        tmp_path, {"DISTILLER.TYPE": "DKD", "DISTILLER.TEACHER_CKPT": teachers["resnet14"]}
    )
    trainer.enter(trainer.schedule[0][0], begin=True)
    trainer.method.beta = float("inf")
    with pytest.raises(UserError, match=r"epoch 1, step 1: loss_kd = inf; lower"):
        trainer.take(trainer.begin(1), next(trainer.train_batches.epoch(1)))


def test_a_last_batch_of_one_image_that_a_norm_cannot_take_is_told(teachers, tmp_path):
    # 143 images: 71, 71, 1
    overrides = {"DISTILLER.TYPE": "SRRL", "SRRL.CONNECTOR": "pooled", "SOLVER.BATCH_SIZE": 71}
    cfg = tiny_config(tmp_path, {**overrides, "DISTILLER.TEACHER_CKPT": teachers["resnet14"]})
    with pytest.raises(
        UserError,
        match="epoch 1, step 3 is a batch of one image, which SRRL cannot train on .*BATCH_SIZE",
    ):
        train(cfg)


def test_the_best_epoch_is_the_first_of_the_highest():
    scored = [{"epoch": 2 + i, "test_top1": top1} for i, top1 in enumerate((3.0, 7.0, 7.0, 1.0))]
    assert best_row([{"epoch": 1}, *scored])["epoch"] == 3
    assert best_row([{"epoch": 1}]) is None


def test_checkpoints_are_kept_every_so_many_epochs_and_best_is_the_bests(tmp_path, monkeypatch):
    """Accuracies by decree: epoch 2 is the best of 3."""
    names = ("top1", "top5", "loss", "ece")
    decreed = ((10.0, 50.0, 2.0, 1.0), (30.0, 60.0, 1.0, 1.0), (20.0, 70.0, 1.5, 1.0))
    scores = iter([dict(zip(names, values, strict=True)) for values in decreed])
    monkeypatch.setattr(
        "sdkd_plugin.engine.trainer.evaluate", lambda predict, batches, total: next(scores)
    )
    folder = train(tiny_config(tmp_path, {"LOG.SAVE_CHECKPOINT_FREQ": 2})).path
    kept = {
        "latest",
        "latest.previous",
        "best",
        "epoch_2",
        "student_latest",
        "student_best",
        "student_2",
    }
    assert {path.name for path in folder.iterdir() if path.suffix in ("", ".previous")} - {
        ".lock"
    } == kept
    assert [
        read(folder / name)["epoch"] for name in ("latest", "latest.previous", "best", "epoch_2")
    ] == [3, 2, 2, 2]
    assert_bits_equal(read(folder / "student_best"), read(folder / "student_2"))
    assert not torch.equal(
        read(folder / "student_best")["model"]["fc.weight"],
        read(folder / "student_latest")["model"]["fc.weight"],
    )
    assert read(folder / "best")["best_acc"] == read(folder / "latest")["best_acc"] == 30.0


def test_no_method_is_known_to_the_engine_by_name():
    engine = Path(build_model.__code__.co_filename).parents[1] / "engine"
    names = {entry.name for entry in METHODS} - {"NONE"}
    for path in engine.glob("*.py"):
        text = path.read_text()
        assert not [name for name in names if f'"{name}"' in text], path


def test_an_interrupted_run_holds_what_it_says(tmp_path):
    train_until_killed(tiny_config(tmp_path), steps=4)
    (latest,) = tmp_path.rglob("latest")
    assert read(latest)["epoch"] == len(metrics(latest.parent)) == 1

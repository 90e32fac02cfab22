"""Training in phases: a method of these tests with two, and what the loop gives it in each."""

from pathlib import Path

import pytest
import torch
from support.tiny import assert_bits_equal, metrics, read, state_copy, tiny_config
from torch import nn

from sdkd_plugin.config import scaled_config
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.distillers.base import Distiller, Phase, cross_entropy
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.recorder import Recorder
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded
from sdkd_plugin.runs.folder import RunFolder


class Probe(Distiller):
    """Phase "head": the head alone, constant lr, an eighth of the images held out. Phase "all":
    everything, the head slower.
    """

    teacher_from = "none"
    needs_constant_batch = True

    def __init__(self, student: nn.Module):
        super().__init__(student, None)
        self.noise = nn.Parameter(torch.zeros(()))
        self.begun: list[str] = []
        self.seen: list[dict] = []

    def phases(self, cfg):
        return [
            Phase("head", 2, lr=0.01, scores=False, validation=0.125),
            Phase("all", cfg.SOLVER.EPOCHS),
        ]

    def begin_phase(self, phase):
        self.begun.append(phase.name)
        nn.init.normal_(self.noise)  # draws, as a method may

    def get_parameter_groups(self, phase):
        head = {"params": list(self.student.fc.parameters()), "lr_factor": 0.5}
        body = [p for name, p in self.student.named_parameters() if not name.startswith("fc.")]
        return [head] if phase.name == "head" else [{"params": body}, head]

    def before_step(self, optimizer, image, target, **extras):
        rates = [group["lr"] for group in optimizer.param_groups]
        self.seen.append({"phase": self.phase.name, "count": len(target), "rates": rates, **extras})

    def forward_train(self, image, target, epoch=1, **extras):
        logits = self.student(image + 0.01 * self.noise * torch.randn(()))[0]
        self.terms = {"noise": self.noise.detach()}
        return logits, {"loss_ce": cross_entropy(logits, target)}


def assemble(path: Path) -> Trainer:
    # 287 images, of them 40 held out
    cfg = scaled_config(tiny_config(path, {"DATASET.SUBSET": 0.2, "SOLVER.BATCH_SIZE": 32}))
    with torch_seeded(0, "test"):
        distiller = Probe(build_model("resnet8", 10))
    folder = RunFolder(cfg, {"what": "probe"})
    folder.path.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(cfg, distiller, load_dataset(cfg), make_accelerator(cfg))
    trainer.recorder = Recorder(folder, save_freq=40)
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trainer:
    trainer = assemble(tmp_path_factory.mktemp("phases"))
    trainer.start = state_copy(trainer.method.student)
    trainer.run(trainer.recorder)
    return trainer


def test_phases_follow_each_other_and_begin_once(trained):
    assert trained.method.begun == ["head", "all"]
    assert [(row["phase"], row["epoch"]) for row in trained.recorder.history] == [
        ("head", 1),
        ("head", 2),
        ("all", 1),
        ("all", 2),
        ("all", 3),
    ]
    assert [row["lr"] for row in trained.recorder.history] == pytest.approx(
        [0.01, 0.01, 0.05, 0.05, 0.005]
    )


def test_a_phase_that_does_not_score_is_not_scored_and_never_the_best(trained):
    rows = metrics(trained.recorder.folder.path)
    assert [row["test_top1"] == "" for row in rows] == [True, True, False, False, False]
    assert trained.recorder.best["phase"] == "all"


def test_each_phase_trains_its_parameters_at_their_rates(trained):
    by_phase = {
        name: [seen for seen in trained.method.seen if seen["phase"] == name]
        for name in ("head", "all")
    }
    assert {tuple(seen["rates"]) for seen in by_phase["head"]} == {(0.005,)}
    assert {tuple(seen["rates"]) for seen in by_phase["all"][:16]} == {(0.05, 0.025)}
    assert by_phase["all"][-1]["rates"] == pytest.approx([0.005, 0.0025])


def test_the_first_phase_leaves_the_body_alone(tmp_path):
    trainer = assemble(tmp_path)
    start = state_copy(trainer.method.student)
    trainer.enter(trainer.schedule[0][0], begin=True)
    trainer.train_epoch(1)
    moved = [
        key
        for key, value in trainer.method.student.named_parameters()
        if not torch.equal(value, start[key])
    ]
    assert moved == ["fc.weight", "fc.bias"]


def test_a_constant_batch_is_constant_and_progress_runs_from_0_towards_1(trained):
    seen = trained.method.seen
    assert {each["count"] for each in seen} == {32}
    assert len(seen) == 2 * (247 // 32) + 3 * (287 // 32)
    head = [each["progress"] for each in seen if each["phase"] == "head"]
    assert head == pytest.approx([k / 14 for k in range(14)])
    assert [each["epoch"] for each in seen if each["phase"] == "head"] == [1] * 7 + [2] * 7


def test_held_out_images_are_handed_over_and_never_trained_on(trained):
    head = [each for each in trained.method.seen if each["phase"] == "head"]
    assert all("validation" not in each for each in trained.method.seen if each["phase"] == "all")
    assert [len(each["validation"][1]) for each in head] == [32, 8, 32, 8, 32, 8, 32] * 2
    whole_times_round = [
        torch.cat([head[k]["validation"][1], head[k + 1]["validation"][1]])
        for k in (0, 2, 4, 7, 9, 11)
    ]
    assert len({tuple(targets.tolist()) for targets in whole_times_round}) == 6, (
        "a new order each time round"
    )
    assert {tuple(targets.sort().values.tolist()) for targets in whole_times_round} == {
        tuple(sorted(whole_times_round[0].tolist()))
    }
    assert max(each["index"].max() for each in head) == 246


def test_terms_are_averaged_into_the_metrics(trained):
    noise = {row["phase"]: float(row["noise"]) for row in metrics(trained.recorder.folder.path)}
    assert noise["head"] != noise["all"] and noise["all"] == pytest.approx(
        trained.method.noise.item()
    )


@pytest.mark.parametrize("done", [0, 1, 2, 3, 4])
def test_a_run_interrupted_in_any_phase_resumes_to_the_bit(done, trained, tmp_path):
    """`done` epochs are saved; 2 is the boundary, where the next phase must begin, just once."""
    first = assemble(tmp_path)
    first.schedule = first.schedule[:done]
    first.run(first.recorder)
    second = assemble(tmp_path)
    second.resume(second.recorder)
    assert len(second.recorder.history) == done
    second.run(second.recorder)
    assert first.method.begun + second.method.begun == ["head", "all"]
    for name in ("latest", "best", "student_latest", "student_best"):
        assert_bits_equal(
            read(second.recorder.folder.path / name),
            read(trained.recorder.folder.path / name),
            name,
        )

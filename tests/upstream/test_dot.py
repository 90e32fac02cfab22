"""DOT beside mdistiller's own: the optimiser on given gradients, whole steps of its real trainer,
and its yaml files.
"""

import copy
import importlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.tiny import save_teacher, tiny_config, words
from torch import Tensor

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.data.batches import Batch
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine.build import build_distiller
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.dot import DOT
from sdkd_plugin.engine.run import train
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.models import build_model

SETTINGS = {"lr": 0.1, "momentum": 0.825, "momentum_kd": 0.975}
STEPS, N = 5, 8


def descend(optimizer, hold: str, parameters: list[Tensor], gradients: list[list]) -> None:
    for part, then in zip(gradients, (hold, "step"), strict=True):
        for p, gradient in zip(parameters, part, strict=True):
            p.grad = gradient
        getattr(optimizer, then)()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("decay", [0.0, 5e-4])
def test_the_optimiser_takes_the_steps_of_mdistillers(upstream, decay):
    """Parameters that both losses reach, and one for each alone; what loss_kd alone reaches decays
    here from the first step on, there from the second (DIFF 1).
    """
    theirs_class = importlib.import_module("mdistiller.engine.dot").DistillationOrientedTrainer
    torch.manual_seed(0)
    ours = [torch.randn(4, 3, dtype=torch.float64).requires_grad_() for _ in range(4)]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    dot = DOT(ours, weight_decay=decay, **SETTINGS)
    reference = theirs_class(theirs, weight_decay=decay, **SETTINGS)
    for _ in range(20):
        kd, task = ([torch.randn_like(p) for p in ours] for _ in range(2))
        kd[2] = task[3] = None
        descend(dot, "hold_kd", ours, [kd, task])
        descend(reference, "step_kd", theirs, [kd, task])
    for one, two in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-13)
    away = (ours[3] - theirs[3]).abs().max().item()
    assert away < 1e-13 if decay == 0 else 1e-6 < away < 5e-3


def batches() -> list[Batch]:
    torch.manual_seed(1)
    made = []
    for step in range(STEPS):
        image, target = torch.randn(N, 3, 32, 32), torch.randint(10, (N,))
        index = torch.arange(step * N, (step + 1) * N)
        made.append(Batch(image, target, index, None, N))
    return made


def test_whole_steps_of_kd_are_those_of_mdistillers_dot_trainer(upstream, tmp_path, monkeypatch):
    """Student and teacher alike, the same batches; to the rounding of float32."""
    engine = importlib.import_module("mdistiller.engine")
    monkeypatch.chdir(tmp_path)
    checkpoint = save_teacher(tmp_path / "teacher.pth")
    settings = {
        "DISTILLER.TYPE": "KD",
        "DISTILLER.TEACHER_CKPT": checkpoint,
        "SOLVER.TRAINER": "dot",
        "SOLVER.CHANNELS_LAST": False,
        "SOLVER.WEIGHT_DECAY": 5e-4,
    }
    cfg = scaled_config(tiny_config(tmp_path, settings))
    dataset = load_dataset(cfg)
    teacher = build_model("resnet14", 10)
    teacher.load_state_dict(torch.load(checkpoint)["model"])
    ours = build_distiller(cfg, dataset, teacher)

    student_there, teacher_there = (
        upstream.cifar_model_dict[name][0](num_classes=10) for name in ("resnet8", "resnet14")
    )
    student_there.load_state_dict(ours.student.state_dict())
    teacher_there.load_state_dict(teacher.state_dict())
    start = copy.deepcopy(ours.student.state_dict())
    theirs_cfg = upstream.CFG.clone()
    theirs_cfg.merge_from_list(["SOLVER.WEIGHT_DECAY", 5e-4, "SOLVER.TRAINER", "dot"])
    theirs = upstream.distiller_dict["KD"](student_there, teacher_there, theirs_cfg)
    wrapped = SimpleNamespace(module=theirs.train())  # DataParallel, while there is no GPU
    there = engine.trainer_dict["dot"]("x", wrapped, [], [], theirs_cfg)
    there.distiller = theirs

    here = Trainer(cfg, ours, dataset, make_accelerator(cfg))
    here.reach(here.schedule[0][0])
    running = here.begin(1)
    names = ("training_time", "data_time", "losses", "top1", "top5")
    meters = {name: engine.trainer.AverageMeter() for name in names}
    for group in there.optimizer.param_groups:
        group["lr"] = here.optimizer.param_groups[0]["lr"]
    for batch in batches():
        here.take(running, batch)
        there.train_iter((batch.image, batch.target, batch.index), 1, meters)

    moved = 0.0
    for key, value in student_there.state_dict().items():
        torch.testing.assert_close(ours.student.state_dict()[key], value, rtol=2e-5, atol=2e-6)
        moved += (value - start[key]).abs().sum().item()
    assert moved > 10, "the comparison is about weights that were trained"


FILES = ("res32x4_res8x4", "res32x4_shuv2", "vgg13_vgg8")


@pytest.mark.parametrize("file", FILES)
def test_mdistillers_dot_files_mean_dot_here(upstream, file, tmp_path):
    path = Path(os.environ["MDISTILLER_ROOT"], "configs/cifar100/dot", f"{file}.yaml")
    cfg = load_config(path)
    assert (cfg.DISTILLER.TYPE, cfg.SOLVER.OPTIMIZER, cfg.SOLVER.DOT.DELTA) == ("KD", "dot", 0.075)
    assert cfg.SOLVER.WEIGHT_DECAY == 5e-4


@pytest.mark.slow
def test_an_epoch_of_mdistillers_dot_file(upstream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(os.environ["MDISTILLER_ROOT"], "configs/cifar100/dot/res32x4_res8x4.yaml")
    teacher = save_teacher(tmp_path / "teacher.pth", "resnet32x4")
    small = {
        "DATASET.TYPE": "digits",
        "DATASET.SUBSET": 0.1,
        "DISTILLER.TEACHER_CKPT": teacher,
        "SOLVER.EPOCHS": 1,
        "SOLVER.SCHEDULE_EPOCHS": 240,
    }
    folder = train(load_config(path, words(small)))
    assert folder.identity["SOLVER.OPTIMIZER"] == "dot" and folder.result is not None
    assert folder.path.parent.name.startswith("kd_dot_res32x4_res8x4-")

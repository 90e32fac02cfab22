"""`first_gradient.py YAML FILE`: the gradients of a run's first step and the scores before it, with
frozen norms, by as many processes as it is started as; the first writes them.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from sdkd_plugin.config import load_config, scaled_config
from sdkd_plugin.data.dataset import load_dataset
from sdkd_plugin.engine.build import build_distiller, build_teacher
from sdkd_plugin.engine.device import make_accelerator
from sdkd_plugin.engine.trainer import Trainer
from sdkd_plugin.runs.teacher import loads_teacher, teacher_path


def main(yaml: str, file: str) -> None:
    cfg = load_config(yaml)
    dataset = load_dataset(cfg)
    checkpoint = Path(teacher_path(cfg)) if loads_teacher(cfg) else None
    teacher = build_teacher(cfg, dataset.num_classes, checkpoint)
    method = build_distiller(scaled_config(cfg), dataset, teacher)
    trainer = Trainer(scaled_config(cfg), method, dataset, make_accelerator(cfg, several=True))
    trainer.reach(trainer.schedule[0][0])
    scores = trainer.evaluate(1)
    del scores["test_seconds"]

    running = trainer.begin(1)
    for module in method.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    gradients = {}

    def keep(part: str = "") -> None:
        named = method.named_parameters()
        found = {part + name: p.grad.clone() for name, p in named if p.grad is not None}
        gradients.update(found)

    def keep_kd() -> None:
        keep("kd: ")
        trainer.optimizer.zero_grad(set_to_none=True)

    if trainer.hold_kd is not None:
        trainer.hold_kd = keep_kd
    trainer.optimizer.step = keep
    trainer.take(running, next(trainer.train_batches.epoch(1)))
    if trainer.ranks.writes:
        torch.save({"gradients": gradients, "scores": scores}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])

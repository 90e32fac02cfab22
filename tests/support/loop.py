"""The least that the trainer does: a method built small, its phases, steps on random images."""

import torch
from cases import Case
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin.config import load_config
from sdkd_plugin.distillers.base import Distiller, Phase
from sdkd_plugin.models import build_model
from sdkd_plugin.randomness import torch_seeded
from sdkd_plugin.registry import METHODS

NUM_DATA, NUM_CLASSES, BATCH, SIZE, LR = 40, 10, 8, 16, 0.05


def config(case: Case) -> CN:
    """The case's config."""
    pairs = {"DISTILLER.TYPE": case.name, **case.overrides}
    return load_config(None, [str(word) for pair in pairs.items() for word in pair])


def build(
    case: Case, seed: int = 0, pair: str = "resnet14/resnet8", classes: int = NUM_CLASSES
) -> Distiller:
    """The method around a "teacher/student" pair with random weights.

    The teacher's running statistics fit its activations; it knows so many classes.
    """
    teacher_name, student_name = pair.split("/")
    method = METHODS[case.name].build
    with torch_seeded(seed, "test"):
        student, teacher = build_model(student_name, NUM_CLASSES), None
        if method.teacher_from != "none":
            teacher = build_model(teacher_name, classes)
            if method.teacher_from == "checkpoint":
                calibrate(teacher)
        return method(
            student, teacher, config(case), *([NUM_DATA] if method.needs_num_data else [])
        )


def zoo(name: str, seed: int = 0) -> nn.Module:
    """A model of the zoo with random weights, whose running statistics fit its activations."""
    with torch_seeded(seed, "test", name):
        network = build_model(name, NUM_CLASSES)
        calibrate(network)
    return network


@torch.no_grad()
def calibrate(net: nn.Module) -> None:
    """Sets running statistics as training would: without them the activations of deep random
    networks explode in eval mode.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    net.train()(torch.randn(BATCH, 3, SIZE, SIZE))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()


def batch(distiller: Distiller, number: int, n: int = BATCH, size: int = SIZE) -> dict[str, Tensor]:
    """What `forward_train` gets in step `number`, counted from 0, but for epoch and progress."""
    with torch_seeded(number, "batch"):
        data = {
            "image": torch.randn(n, 3, size, size),
            "target": torch.randint(NUM_CLASSES, (n,)),
            "index": torch.arange(number * n, (number + 1) * n),
        }
        if distiller.views == 2:
            data["strong"] = torch.randn(n, 3, size, size)
        if distiller.needs_negatives:
            negatives = torch.randint(NUM_DATA, (n, distiller.num_negatives))
            data["contrastive_index"] = torch.cat([data["index"][:, None], negatives], dim=1)
    return data


class Loop:
    """Enters phases and takes steps as `engine.trainer.Trainer` does.

    Args:
        distiller: freshly built.
        phases: its phases.
        n, size: images per batch, their height and width.
    """

    def __init__(self, distiller: Distiller, phases: list[Phase], n: int = BATCH, size: int = SIZE):
        self.distiller, self.phases, self.n, self.size = distiller, phases, n, size
        self.layout, self.dtype = torch.contiguous_format, torch.float32  # of the images

    def enter(self, phase: Phase, begin: bool = True) -> None:
        """`begin` is False when resuming inside the phase."""
        with torch_seeded(0, "begin", phase.name):
            groups = self.distiller.enter(phase, begin)
        for group in groups:
            group["lr"] = group["lr_factor"] * (phase.lr or LR)
        self.optimizer = torch.optim.SGD(groups, lr=LR, momentum=0.9, weight_decay=5e-4)
        self.distiller.train()

    def forward(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Before the backward pass of step `number`, 0 to 3: the student's logits and losses."""
        data = {
            **batch(self.distiller, number, self.n, self.size),
            "epoch": 1,
            "progress": number / 4,
        }
        for view in {"image", "strong"} & data.keys():
            data[view] = data[view].to(self.dtype, memory_format=self.layout)
        held_out = batch(self.distiller, 4, self.n, self.size)
        validation = (
            {"validation": (held_out["image"].to(self.dtype), held_out["target"])}
            if self.distiller.phase.validation
            else {}
        )
        with torch_seeded(number, "step"):  # for methods that draw in their step
            self.distiller.before_step(self.optimizer, **data, **validation)
            return self.distiller(**data)

    def step(self, number: int) -> Tensor:
        """A whole step; returns the loss."""
        _, losses = self.forward(number)
        loss = sum(losses.values())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def make_loop(case: Case, seed: int = 0) -> Loop:
    """The method on resnet14 and resnet8, before its first phase."""
    distiller = build(case, seed)
    return Loop(distiller, [phase for phase in distiller.phases(config(case)) if phase.epochs])


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's state that later steps do not change."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two states agree in every bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )

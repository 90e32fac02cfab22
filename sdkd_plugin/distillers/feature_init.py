"""What AB, FSP and two-phase FitNet share: first the student's maps are trained alone, then the
network on the labels.
"""

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, AtLeast
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import Distiller, Phase, Step, cross_entropy, whole_epochs
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.probe import eval_mode

INIT = "init"
CONFIG = {
    "INIT_EPOCHS": 30,  # epochs of the first phase, on top of SOLVER.EPOCHS; 0 leaves it out
    "INIT_LR": 0.0,  # constant learning rate of the first phase; 0.0: SOLVER.LR
    "TAU": 4.0,  # temperature of the KD term, divides both logits
    "LOSS": {
        "CE_WEIGHT": 1.0,  # second phase: weight of the cross entropy with the labels
        "KD_WEIGHT": 0.0,  # second phase: weight of KD's tau^2 KL; 0.0: no teacher there
    },
    **lskd.CONFIG,
}
ALLOWED = {
    "INIT_EPOCHS": AtLeast(0),
    "INIT_LR": AtLeast(0),
    "TAU": Above(0),
    "LOSS.CE_WEIGHT": AtLeast(0),
    "LOSS.KD_WEIGHT": AtLeast(0),
    **lskd.ALLOWED,
}
RENAMED = {"TEMPERATURE": "TAU"}


class FeatureInit(Distiller, ABC):
    """Phase "init" minimises `init_loss`; phase "train" CE_WEIGHT * CE + KD_WEIGHT * tau^2 KL.

    In "init" the student is in eval mode, except for the modules that are trained: those that
    compute its `feats`.

    Args:
        name: the method's.
        node: its config node, with at least the keys of CONFIG.
        layer: the last of `feats` that is used.
    """

    splits_losses = False

    def __init__(
        self, student: nn.Module, teacher: nn.Module, name: str, node: CfgNode, layer: int = -1
    ):
        super().__init__(student, teacher)
        self.name = name
        self.tau = node.TAU
        self.ce_weight = node.LOSS.CE_WEIGHT
        self.kd_weight = node.LOSS.KD_WEIGHT
        self.standard = node.LOGIT_STANDARD
        self.trained_first = feature_modules(student, name, layer) if node.INIT_EPOCHS else []

    @abstractmethod
    def init_loss(self, feats_student: dict, feats_teacher: dict) -> Tensor:
        """The first phase's whole loss, a scalar in float32 or wider, from what the networks call
        feats.
        """

    def phases(self, cfg: CfgNode) -> list[Phase]:
        return [*init_phase(cfg, self.name), Phase("train", cfg.SOLVER.EPOCHS)]

    def in_init(self) -> bool:
        return self.phase is not None and self.phase.name == INIT

    def get_parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        if phase.name != INIT:
            return [{"params": list(self.student.parameters())}]

        networks = ("student.", "teacher.")
        own = [p for name, p in self.named_parameters() if not name.startswith(networks)]
        first = [p for module in self.trained_first for p in module.parameters()]
        return [{"params": own + first}]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode and self.in_init():
            self.student.eval()
            for module in self.trained_first:
                module.train()
        return self

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        if self.in_init():
            with torch.no_grad():
                _, feats_teacher = self.teacher(image)
            return logits_student, {"loss_kd": self.init_loss(feats_student, feats_teacher)}

        losses = {"loss_ce": self.ce_weight * cross_entropy(logits_student, target)}
        if self.kd_weight:
            with torch.no_grad():
                logits_teacher, _ = self.teacher(image)  # [N, K]
            losses["loss_kd"] = self.kd_weight * self.kd(logits_student, logits_teacher)
        return logits_student, losses

    def kd(self, logits_student: Tensor, logits_teacher: Tensor) -> Tensor:
        """The KD term without its weight; both [N, K]."""
        return kd_loss(*kl_logits(self.standard, logits_student, logits_teacher), self.tau)


def init_phase(cfg: CfgNode, name: str) -> list[Phase]:
    """The first phase as the node called `name` sets it; none where INIT_EPOCHS is 0.

    Its learning rate is the constant INIT_LR, or SOLVER.LR if that is 0.
    """
    epochs = whole_epochs(cfg[name].INIT_EPOCHS)
    if not epochs:
        return []
    return [Phase(INIT, epochs, lr=cfg[name].INIT_LR or cfg.SOLVER.LR, scores=False)]


def feature_modules(student: nn.Module, name: str, layer: int = -1) -> list[nn.Module]:
    """Those of `student.get_feat_modules()` that compute `feats[layer]`.

    Args:
        name: of the method that asks, for the message.
    Raises:
        UserError: the student has no `get_feat_modules`.
    """
    listed = getattr(student, "get_feat_modules", None)
    if listed is None:
        raise UserError(
            f"{name} trains feature maps alone at first, but the student {type(student).__name__} "
            "has no get_feat_modules(): choose a DISTILLER.STUDENT of sdkd_plugin.models, or add "
            "the method to its class"
        )

    parameters = list(student.parameters())
    black = torch.zeros(1, 3, 32, 32, device=parameters[0].device, dtype=parameters[0].dtype)
    with eval_mode(student), torch.enable_grad():
        last = student(black)[1]["feats"][layer]  # [1, C, H, W]
        gradients = torch.autograd.grad(last.sum(), parameters, allow_unused=True)

    pairs = zip(parameters, gradients, strict=True)
    reached = {id(p) for p, gradient in pairs if gradient is not None}
    own = [(module, {id(p) for p in module.parameters()}) for module in listed()]
    return [module for module, ids in own if ids & reached or not ids]

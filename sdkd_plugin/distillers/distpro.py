"""DistPro-style: how much each pathway counts at each moment is searched, then replayed.

Source: Deng et al., ECCV 2022. The paper's record-and-replay is not public; ours is a
reconstruction, and the card lists what is not known.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import AtLeast, Between, OneOf
from sdkd_plugin.distillers.base import Distiller, Phase, Step, cross_entropy, whole_epochs
from sdkd_plugin.distillers.reviewkd import hcl
from sdkd_plugin.models.base import conv_norm, convolution
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    "KD_WEIGHT": 1.0,  # factor of "scaled" weights
    "SEARCH_EPOCHS": 40,  # of the phase that searches; 0: no search, all pathways count alike
    "VAL_RATIO": 0.2,  # of the training images, held out to judge the search by
    "ARCH_LR": 0.1,  # Adam's learning rate for alpha
    "SEARCH_NORM": "softmax",  # how alpha becomes weights in the search: softmax | biased | scaled
    "TRAIN_NORM": "scaled",  # and in the training that follows
}
NORMS = OneOf(("softmax", "biased", "scaled"), "normalisation")
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "KD_WEIGHT": AtLeast(0),
    "SEARCH_EPOCHS": AtLeast(0),
    "VAL_RATIO": Between(0, 1, without_low=True, without_high=True),
    "ARCH_LR": AtLeast(0),
    "SEARCH_NORM": NORMS,
    "TRAIN_NORM": NORMS,
}
BETAS = (0.5, 0.999)  # Adam's, as the next
EPS = 1e-8
REACH = 0.01  # length of the steps along v that measure a second derivative

Weights = Mapping[str, Tensor]  # of a network, by name


def pathway_weights(alpha: Tensor, norm: str, kd_weight: float) -> Tensor:
    """alpha [K] to weights [K] of the pathways.

    softmax: softmax(alpha), sum 1; biased: softmax([alpha, 1]) without its last entry;
    scaled: K * kd_weight * biased.
    """
    if norm == "softmax":
        return torch.softmax(alpha, 0)
    biased = torch.softmax(torch.cat([alpha, alpha.new_ones(1)]), 0)[:-1]  # [K]
    return biased if norm == "biased" else len(alpha) * kd_weight * biased


def replayed(process: Tensor, progress: float) -> Tensor:  # DIFF 1
    """alpha [K] at this part of the training, linear between the records of a search.

    Args:
        process: [T + 1, K] of a search of T epochs.
        progress: from 0 to 1.
    """
    place = progress * (len(process) - 1)
    before = min(int(place), len(process) - 1)
    after = min(before + 1, len(process) - 1)
    return torch.lerp(process[before], process[after], place - before)


class Gate(nn.Module):
    """x times one number per position, a 1x1 convolution of x without bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x)  # [N, C, H, W] times [N, 1, H, W]


class Pathway(nn.Module):
    """One student map to the shape of one teacher map.

    conv3x3, norm, ReLU, gate, conv3x3, norm, ReLU, resize, conv3x3, norm. Convolutions without
    bias, from N(0, 2 / (9 C_out)); between them min(512, C_S, C_T) channels.

    Args:
        channels, teacher_channels: C_S and C_T.
    """

    def __init__(self, channels: int, teacher_channels: int):
        super().__init__()
        mid = min(512, channels, teacher_channels)
        enter = conv_norm(channels, mid, 3)
        middle = conv_norm(mid, mid, 3)
        self.body = nn.Sequential(*enter, nn.ReLU(), Gate(mid), *middle, nn.ReLU())
        self.leave = conv_norm(mid, teacher_channels, 3)
        for layers in (enter, middle, self.leave):
            weight = convolution(layers).weight
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")

    def forward(self, feat_student: Tensor, size: torch.Size) -> Tensor:
        """[N, C_S, H, W] to [N, C_T, *size]."""
        return self.leave(F.interpolate(self.body(feat_student), size, mode="nearest"))


class Pathways(nn.Module):
    """All pathways whose student map is at least as deep as their teacher map, the stem's being 0.

    Args:
        channels, teacher_channels: of the two networks' maps, stem included.
    """

    def __init__(self, channels: list[int], teacher_channels: list[int]):
        super().__init__()
        self.pairs = [
            (t, s) for t in range(len(teacher_channels)) for s in range(len(channels)) if s >= t
        ]
        self.paths = nn.ModuleList(Pathway(channels[s], teacher_channels[t]) for t, s in self.pairs)

    def forward(self, feats_student: list[Tensor], feats_teacher: list[Tensor]) -> Tensor:
        """The two networks' maps to the HCL loss of each pathway, [K]."""
        losses = []
        for (t, s), path in zip(self.pairs, self.paths, strict=True):
            goal = feats_teacher[t]  # [N, C, H, W]
            losses.append(hcl(path(feats_student[s], goal.shape[2:]), goal))
        return torch.stack(losses)


def without_trace(module: nn.Module, weights: Weights, *inputs: Any) -> Any:
    """Runs the module with these weights instead of its own; its buffers stay as they are."""
    # DIFF 2: in the release running statistics move in each of these passes, and the weights stay
    # at the virtual step
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    return functional_call(module, {**weights, **buffers}, inputs)


def adam_step(
    value: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, count: Tensor, lr: float
) -> None:
    """One step of Adam on `value` [K], in place; its state is `mean`, `square`, `count` steps."""
    count += 1
    steps = count.double()  # in float32, 1 - 0.999 would have four digits
    mean.lerp_(gradient, 1 - BETAS[0])
    square.lerp_(gradient.square(), 1 - BETAS[1])
    corrected = mean / (1 - BETAS[0] ** steps)
    value -= lr * corrected / ((square / (1 - BETAS[1] ** steps)).sqrt() + EPS)


@METHODS.register("DISTPRO", config=CONFIG, allowed=ALLOWED, epoch_keys=("SEARCH_EPOCHS",))
class DistPro(Distiller):
    """CE_WEIGHT * CE + sum of pathway weights times HCL losses; trains pathways beside the student.

    Phase "search" moves the weights' logits alpha before each step, so that the step lowers the CE
    on held-out images, and records alpha. Phase "train" begins again from the initial weights, on
    all images, and replays the record stretched to its own length. A loop that knows no phases
    replays an empty record: all pathways count alike.
    """

    needs_whole_batch = True
    splits_losses = False  # `virtual_step` follows the one momentum

    alpha: Tensor  # [K], then Adam's state for it
    alpha_mean: Tensor  # [K]
    alpha_square: Tensor  # [K]
    alpha_steps: Tensor
    process: Tensor  # [T + 1, K]; row e: alpha at the end of epoch e of the search

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CN):
        super().__init__(student, teacher)
        self.node = cfg.DISTPRO
        # DIFF 3: measured, also the teacher's sizes, which the release sets to 32, 32, 16, 8
        channels, teacher_channels = (
            [f.shape[1] for f in probe(net)[1]["preact_feats"]] for net in (student, teacher)
        )
        self.pathways = Pathways(channels, teacher_channels)

        alpha = torch.ones(len(self.pathways.pairs))
        self.register_buffer("alpha", alpha)
        self.register_buffer("alpha_mean", torch.zeros_like(alpha))
        self.register_buffer("alpha_square", torch.zeros_like(alpha))
        self.register_buffer("alpha_steps", torch.tensor(0))
        rows = whole_epochs(self.node.SEARCH_EPOCHS) + 1
        self.register_buffer("process", alpha.repeat(rows, 1))

        # not in the state: they follow from the seed, so a resumed run has the same
        self.initial = {
            net: copy.deepcopy(net.state_dict()) for net in (self.student, self.pathways)
        }

    def phases(self, cfg: CN) -> list[Phase]:
        epochs = whole_epochs(cfg.DISTPRO.SEARCH_EPOCHS)
        search = Phase("search", epochs, scores=False, validation=cfg.DISTPRO.VAL_RATIO)
        return [*([search] if epochs else []), Phase("train", cfg.SOLVER.EPOCHS)]

    @property
    def searches(self) -> bool:
        return self.phase is not None and self.phase.name == "search"

    def begin_phase(self, phase: Phase) -> None:
        if phase.name == "train":
            for net, state in self.initial.items():  # DIFF 4: a fresh start on all images
                net.load_state_dict(state)

    def before_step(
        self,
        optimizer: Optimizer,
        image: Tensor,
        target: Tensor,
        epoch: int = 1,
        validation: tuple[Tensor, Tensor] | None = None,
        **extras: Any,
    ) -> None:
        if not self.searches:
            return
        assert validation is not None
        gradient = self.meta_gradient(optimizer, image, target, validation)
        state = (self.alpha_mean, self.alpha_square, self.alpha_steps)
        with torch.no_grad():
            adam_step(self.alpha, gradient, *state, self.node.ARCH_LR)
            self.process[epoch:] = self.alpha  # what later epochs will overwrite

    def meta_gradient(
        self, optimizer: Optimizer, image: Tensor, target: Tensor, held: tuple[Tensor, Tensor]
    ) -> Tensor:
        """d CE(held-out images, theta') / d alpha [K], where theta' is what the step would make.

        = -lr d/d alpha (grad_theta L_train . v), v the gradient of that CE at theta'. L_train
        depends on alpha through the weights alone, so the pathways' losses at theta + r v and theta
        - r v suffice, without a backward pass.
        Source: the authors' code (DistPro 54f1d84), which follows DARTS.
        """
        theta: Weights = dict(self.student.named_parameters())
        with torch.no_grad():
            maps_teacher = self.teacher(image)[1]["preact_feats"]

        logits, losses = self._losses(theta, image, maps_teacher)
        weights = pathway_weights(self.alpha, self.node.SEARCH_NORM, self.node.KD_WEIGHT)  # [K]
        loss = self.node.CE_WEIGHT * cross_entropy(logits, target) + (weights * losses).sum()
        stepped = virtual_step(optimizer, theta, torch.autograd.grad(loss, list(theta.values())))

        held_image, held_target = held
        held_loss = cross_entropy(without_trace(self.student, stepped, held_image)[0], held_target)
        v = torch.autograd.grad(held_loss, list(stepped.values()))
        reach = REACH / torch.stack([g.norm() for g in v]).norm().clamp_min(1e-12)
        with torch.no_grad():
            ends = []
            for r in (reach, -reach):
                shifted = {name: p + r * g for (name, p), g in zip(theta.items(), v, strict=True)}
                ends.append(self._losses(shifted, image, maps_teacher)[1])
            slope = (ends[0] - ends[1]) / (2 * reach)  # [K], each loss's gradient times v

        alpha = self.alpha.detach().clone().requires_grad_()
        weights = pathway_weights(alpha, self.node.SEARCH_NORM, self.node.KD_WEIGHT)
        return torch.autograd.grad(weights, alpha, -optimizer.param_groups[0]["lr"] * slope)[0]

    def _losses(
        self, theta: Weights, image: Tensor, maps_teacher: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Logits [N, K] of a student with these weights, and the loss of each pathway, [K]."""
        logits, feats = without_trace(self.student, theta, image)
        paths = dict(self.pathways.named_parameters())
        return logits, without_trace(self.pathways, paths, feats["preact_feats"], maps_teacher)

    def forward_train(
        self, image: Tensor, target: Tensor, epoch: int = 1, progress: float = 0.0, **extras: Any
    ) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():  # DIFF 5: in eval mode
            _, feats_teacher = self.teacher(image)

        losses = self.pathways(feats_student["preact_feats"], feats_teacher["preact_feats"])  # [K]
        alpha = self.alpha if self.searches else replayed(self.process, progress)  # [K]
        norm = self.node.SEARCH_NORM if self.searches else self.node.TRAIN_NORM
        weights = pathway_weights(alpha, norm, self.node.KD_WEIGHT)  # [K]

        named = zip(self.pathways.pairs, weights, strict=True)
        self.terms = {f"weight_t{t}_s{s}": weight for (t, s), weight in named}
        return logits_student, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": (weights * losses).sum(),
        }


def virtual_step(optimizer: Optimizer, theta: Weights, gradients: Sequence[Tensor]) -> Weights:
    """theta after a step of SGD with momentum and weight decay, which is not taken."""
    (group,) = optimizer.param_groups
    stepped = {}
    for (name, p), gradient in zip(theta.items(), gradients, strict=True):
        update = gradient + group["weight_decay"] * p.detach()
        if "momentum_buffer" in optimizer.state.get(p, {}):
            update += group["momentum"] * optimizer.state[p]["momentum_buffer"]
        stepped[name] = (p.detach() - group["lr"] * update).requires_grad_()
    return stepped

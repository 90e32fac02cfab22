"""DistPro-style: how much each teacher-student pathway counts at each moment is searched, then
replayed (Deng et al., ECCV 2022).

The paper's record-and-replay is not public; ours is a reconstruction, and the card lists what is
not known.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import AtLeast, Between, OneOf
from sdkd_plugin.distillers.base import Distiller, Phase, cross_entropy, whole_epochs
from sdkd_plugin.distillers.reviewkd import hcl
from sdkd_plugin.models.base import conv_norm
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
    "KD_WEIGHT": 1.0,  # factor of "scaled" weights
    "SEARCH_EPOCHS": 40,  # of the phase that searches; 0: no search, all pathways count alike
    # fraction of the training images that the search judges by and does not train on
    "VAL_RATIO": 0.2,
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
BETAS, EPS = (0.5, 0.999), 1e-8  # Adam's
REACH = 0.01  # length of the steps along v that measure a second derivative


def pathway_weights(alpha: Tensor, norm: str, kd_weight: float) -> Tensor:
    """alpha [K] to weights [K] of the pathways.

    softmax: softmax(alpha), sum 1; biased: softmax([alpha, 1]) without its last entry; scaled: K *
    kd_weight * biased.
    """
    if norm == "softmax":
        return torch.softmax(alpha, 0)
    biased = torch.softmax(torch.cat([alpha, alpha.new_ones(1)]), 0)[:-1]
    return biased if norm == "biased" else len(alpha) * kd_weight * biased


def replayed(process: Tensor, progress: float) -> Tensor:  # DIFF 1
    """alpha [K] at this part of the training (0 to 1), linear between the records [T + 1, K] of a
    search of T epochs.
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
        return x * self.conv(x)


class Pathway(nn.Module):
    """One student map to the shape of one teacher map: conv3x3, norm, ReLU, gate, conv3x3, norm,
    ReLU, resize, conv3x3, norm.

    Convolutions without bias, from N(0, 2 / (9 C_out)); between them min(512, C_S, C_T) channels.

    Args:
        channels, teacher_channels: C_S and C_T.
    """

    def __init__(self, channels: int, teacher_channels: int):
        super().__init__()
        mid = min(512, channels, teacher_channels)
        enter, middle = conv_norm(channels, mid, 3), conv_norm(mid, mid, 3)
        self.body = nn.Sequential(*enter, nn.ReLU(), Gate(mid), *middle, nn.ReLU())
        self.leave = conv_norm(mid, teacher_channels, 3)
        for conv in (enter[0], middle[0], self.leave[0]):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

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
            losses.append(hcl(path(feats_student[s], feats_teacher[t].shape[2:]), feats_teacher[t]))
        return torch.stack(losses)


def without_trace(module: nn.Module, weights: dict[str, Tensor], *inputs: object) -> object:
    """Runs the module with these weights in place of its own; its buffers, running statistics too,
    stay as they are.
    """
    # DIFF 2: in the release running statistics move in each of these passes, and the weights stay
    # at the virtual step
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    return functional_call(module, {**weights, **buffers}, inputs)


def adam_step(
    value: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, count: Tensor, lr: float
) -> None:
    """One step of Adam (betas 0.5, 0.999) on `value`, in place, as are its state `mean`, `square`
    and `count`.
    """
    count += 1
    steps = count.double()  # in float32, 1 - 0.999 would have four digits
    mean.lerp_(gradient, 1 - BETAS[0])
    square.lerp_(gradient.square(), 1 - BETAS[1])
    corrected = mean / (1 - BETAS[0] ** steps)
    value -= lr * corrected / ((square / (1 - BETAS[1] ** steps)).sqrt() + EPS)


@METHODS.register("DISTPRO", config=CONFIG, allowed=ALLOWED, epoch_keys=("SEARCH_EPOCHS",))
class DistPro(Distiller):
    """CE_WEIGHT * CE + sum of pathway weights times HCL losses; trains the pathways beside the
    student.

    Phase "search" moves the weights' logits alpha before each step, so that the step lowers the CE
    on held-out images, and records alpha. Phase "train" begins again from the initial weights, on
    all images, and replays the record stretched to its own length. A loop that knows no phases
    replays an empty record: all pathways count alike.
    """

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
        # row e: alpha at the end of epoch e of the search
        self.register_buffer("process", alpha.repeat(whole_epochs(self.node.SEARCH_EPOCHS) + 1, 1))
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
        **extras,
    ) -> None:
        if not self.searches:
            return
        gradient = self.meta_gradient(optimizer, image, target, *validation)
        with torch.no_grad():
            adam_step(
                self.alpha,
                gradient,
                self.alpha_mean,
                self.alpha_square,
                self.alpha_steps,
                self.node.ARCH_LR,
            )
            self.process[epoch:] = self.alpha  # what later epochs will overwrite

    def meta_gradient(
        self,
        optimizer: Optimizer,
        image: Tensor,
        target: Tensor,
        held_image: Tensor,
        held_target: Tensor,
    ) -> Tensor:
        """d CE(held-out images, theta') / d alpha [K], where theta' is the student after the step
        the optimiser would take.

        = -lr d/d alpha (grad_theta L_train . v), v the gradient of that CE at theta'. L_train
        depends on alpha through the weights alone, so the pathways' losses at theta + r v and theta
        - r v suffice, without a backward pass.
        Source: the authors' code (DistPro 54f1d84), which follows DARTS.
        """
        theta, paths = dict(self.student.named_parameters()), dict(self.pathways.named_parameters())
        with torch.no_grad():
            maps_teacher = self.teacher(image)[1]["preact_feats"]
        logits, feats = without_trace(self.student, theta, image)
        losses = without_trace(self.pathways, paths, feats["preact_feats"], maps_teacher)
        weights = pathway_weights(self.alpha, self.node.SEARCH_NORM, self.node.KD_WEIGHT)
        loss = self.node.CE_WEIGHT * cross_entropy(logits, target) + (weights * losses).sum()
        stepped = virtual_step(optimizer, theta, torch.autograd.grad(loss, theta.values()))
        held_loss = cross_entropy(without_trace(self.student, stepped, held_image)[0], held_target)
        v = torch.autograd.grad(held_loss, stepped.values())
        reach = REACH / torch.stack([g.norm() for g in v]).norm().clamp_min(1e-12)
        with torch.no_grad():
            ends = []
            for r in (reach, -reach):
                shifted = {name: p + r * g for (name, p), g in zip(theta.items(), v, strict=True)}
                feats = without_trace(self.student, shifted, image)[1]
                ends.append(
                    without_trace(self.pathways, paths, feats["preact_feats"], maps_teacher)
                )
            slope = (ends[0] - ends[1]) / (2 * reach)  # [K], each loss's gradient times v
        alpha = self.alpha.detach().clone().requires_grad_()
        weights = pathway_weights(alpha, self.node.SEARCH_NORM, self.node.KD_WEIGHT)
        return torch.autograd.grad(weights, alpha, -optimizer.param_groups[0]["lr"] * slope)[0]

    def forward_train(
        self, image: Tensor, target: Tensor, epoch: int = 1, progress: float = 0.0, **extras
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feats_student = self.student(image)
        with torch.no_grad():  # DIFF 5: in eval mode
            feats_teacher = self.teacher(image)[1]
        losses = self.pathways(feats_student["preact_feats"], feats_teacher["preact_feats"])
        if self.searches:
            weights = pathway_weights(self.alpha, self.node.SEARCH_NORM, self.node.KD_WEIGHT)
        else:
            weights = pathway_weights(
                replayed(self.process, progress), self.node.TRAIN_NORM, self.node.KD_WEIGHT
            )
        self.terms = {
            f"weight_t{t}_s{s}": weight
            for (t, s), weight in zip(self.pathways.pairs, weights, strict=True)
        }
        return logits_student, {
            "loss_ce": self.node.CE_WEIGHT * cross_entropy(logits_student, target),
            "loss_kd": (weights * losses).sum(),
        }


def virtual_step(
    optimizer: Optimizer, theta: dict[str, Tensor], gradients: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """theta after the step that SGD with momentum and weight decay would take; leaves the optimiser
    and theta as they are.
    """
    (group,) = optimizer.param_groups
    stepped = {}
    for (name, p), gradient in zip(theta.items(), gradients, strict=True):
        update = gradient + group["weight_decay"] * p.detach()
        if "momentum_buffer" in optimizer.state.get(p, {}):
            update += group["momentum"] * optimizer.state[p]["momentum_buffer"]
        stepped[name] = (p.detach() - group["lr"] * update).requires_grad_()
    return stepped

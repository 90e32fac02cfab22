"""SDKD: the student learns from a proxy teacher made of its own weights and trainable feature
fusion blocks.

Notation as in the card (docs/methods/sdkd.md): S student, T frozen teacher, P proxy teacher; z
logits; s_k, t_k, p_k the maps after stage k; f_k the fused map; sg stops the gradient.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import Above, Anything, AtLeast, Between, Numbers, OneOf
from sdkd_plugin.distillers.base import Distiller, Step, at_least_float32, cross_entropy
from sdkd_plugin.distillers.dkd import warmup_factor
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.families import find_family, has_module, replace_module, stage_channels
from sdkd_plugin.registry import METHODS
from sdkd_plugin.weights import load_weights

CONFIG = {
    "TAU": 4.0,  # temperature of every KL term
    "STAGES": [],  # student stages that are fused, 1-based after the stem; empty: all
    "FUSION": "gate",  # gate | concat | residual
    "SYNC": "step",  # when P copies S's weights: step | epoch | init | ema | checkpoint
    "SYNC_CKPT": "",  # SYNC checkpoint only: file {"model": state_dict} of a trained student
    "EMA_DECAY": 0.999,  # SYNC ema only: share of the old average kept in each step
    # P's norms use: batch (batch statistics, own buffers) | student (S's running statistics)
    "PROXY_BN": "batch",
    # what the fusion sees of T: own | zeros | shuffled (the next image's); the last two are
    # controls
    "TEACHER_FEATURES": "own",
    "WARMUP": 0,  # epochs over which every KL and feature term ramps up linearly; 0: none
    "LOSS": {
        "CE_WEIGHT": 1.0,  # CE(z_S, y)
        "TEACHER_WEIGHT": 2.0,  # w_t: KL(z_T || z_S)
        "PROXY_WEIGHT": 2.0,  # w_p: KL(sg z_P || z_S)
        "FEAT_WEIGHT": 0.0,  # w_f: sum over fused stages of d(s_k, sg f_k)
        "PROXY_CE_WEIGHT": 1.0,  # w_pc: CE(z_P, y), trains the fusion blocks, as do the next two
        "MUTUAL_WEIGHT": 1.0,  # w_m: KL(sg z_S || z_P)
        "PROXY_TEACHER_WEIGHT": 2.0,  # w_pt: KL(z_T || z_P)
    },
}
ALLOWED = {
    "TAU": Above(0),
    "STAGES": Numbers("different whole numbers from 1", AtLeast(1), whole=True, different=True),
    "FUSION": OneOf(("gate", "concat", "residual")),
    "SYNC": OneOf(("step", "epoch", "init", "ema", "checkpoint")),
    "SYNC_CKPT": Anything(),
    "EMA_DECAY": Between(0, 1.0),
    "PROXY_BN": OneOf(("batch", "student")),
    "TEACHER_FEATURES": OneOf(("own", "zeros", "shuffled")),
    "WARMUP": AtLeast(0),
    **{f"LOSS.{name}": AtLeast(0) for name in CONFIG["LOSS"]},
}
PROXY_WEIGHTS = (
    "PROXY_WEIGHT",
    "FEAT_WEIGHT",
    "PROXY_CE_WEIGHT",
    "MUTUAL_WEIGHT",
    "PROXY_TEACHER_WEIGHT",
)


class FFB(nn.Module):
    """Feature Fusion Block: f_k from the proxy's p_k and the teacher's t_k.

    t = resize(BN(conv1x1(t_k)));
    gate:     BN(conv3x3(a p_k + b t)), with two maps a, b = sigmoid(conv1x1([p_k, t]));
    concat:   BN(conv1x1([p_k, t]));
    residual: p_k + BN0(conv3x3(relu(BN(conv1x1([p_k, t]))))), where BN0 starts at zero, so that f_k
    starts as p_k; then relu, unless p_k is signed.

    Args:
        channels: of p_k and f_k.
        teacher_channels: of t_k.
        kind: gate | concat | residual.
        signed: whether p_k, and so f_k, has both signs.
    """

    def __init__(self, channels: int, teacher_channels: int, kind: str, signed: bool):
        super().__init__()
        self.kind, self.signed = kind, signed
        self.project = _conv_norm(teacher_channels, channels, 1)
        if kind == "gate":
            self.gates = nn.Conv2d(2 * channels, 2, 1)
            self.fuse = _conv_norm(channels, channels, 3)
        elif kind == "concat":
            self.fuse = _conv_norm(2 * channels, channels, 1)
        else:
            self.fuse = nn.Sequential(
                *_conv_norm(2 * channels, channels, 1),
                nn.ReLU(),
                *_conv_norm(channels, channels, 3),
            )
            nn.init.zeros_(self.fuse[-1].weight)

    def forward(self, proxy_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Maps [N, C, H, W] and [N, C_t, H_t, W_t] to [N, C, H, W]."""
        p = proxy_map
        t = resize(self.project(teacher_map), p.shape[-2:])  # [N, C, H, W]
        both = torch.cat([p, t], 1)  # [N, 2C, H, W]
        if self.kind == "gate":
            gates = torch.sigmoid(self.gates(both))  # [N, 2, H, W]
            f = self.fuse(p * gates[:, :1] + t * gates[:, 1:])
        else:
            f = self.fuse(both) if self.kind == "concat" else p + self.fuse(both)
        return f if self.signed else F.relu(f)


def _conv_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


def resize(x: Tensor, size: torch.Size) -> Tensor:
    """Adaptive average pooling down, bilinear interpolation up, to [..., *size]."""
    if x.shape[-1] > size[-1]:
        return F.adaptive_avg_pool2d(x, size)
    return (
        x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
    )


class ProxyStage(nn.Module):
    """Stands where the family's stage stood inside P, so that the model's forward need not know
    about the fusion.
    """

    def __init__(self, stage: nn.Module, fusion: FFB | None, pair: bool):
        super().__init__()
        self.stage, self.fusion, self.pair = stage, fusion, pair
        # Handed in just before a forward and taken back after it. Every DataParallel replica is an
        # object of its own.
        self.student_map: Tensor | None = None
        self.teacher_map: Tensor | None = None

    @property
    def layer(self) -> nn.Module:
        """WRN's forward reads the first norm of its blocks through this name."""
        return self.stage.layer

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        f = self.student_map
        if f is None:
            f = self.stage(x)[0] if self.pair else self.stage(x)
        if self.fusion is not None:
            f = self.fusion(f, self.teacher_map)
        return (f, f) if self.pair else f


class ProxyTeacher(nn.Module):
    """A copy of the student whose fused stages go through an FFB; its only parameters are the
    FFBs'.

    Its weights are the student's, detached: set anew before each forward (SYNC step), or real
    copies kept as buffers. With SYNC step and PROXY_BN batch P equals S up to the first fused
    stage, so it starts there from sg(s_k).

    Args:
        student: S, or for SYNC checkpoint the trained student to copy.
        teacher_channels: {k: channels of the teacher's map} for each fused stage k, ascending.
        cfg: the SDKD node.
    """

    def __init__(self, student: nn.Module, teacher_channels: dict[int, int], cfg: CN):
        super().__init__()
        self.sync, self.decay, self.student_norms = (
            cfg.SYNC,
            cfg.EMA_DECAY,
            cfg.PROXY_BN == "student",
        )
        self.starts_inside = cfg.SYNC == "step" and not self.student_norms
        self.family, self.stages = find_family(student), list(teacher_channels)
        channels = stage_channels(student, self.family)
        self.model = copy.deepcopy(student)
        copies = list(self.model.named_modules())
        for k, c in teacher_channels.items():
            self._wrap(k, FFB(channels[k], c, cfg.FUSION, self.family.signed))
        self.skipped = self._skip_start() if self.starts_inside else []
        self.shared = self._disown(copies)
        self.register_buffer("synced", torch.tensor(-1))  # epoch of the last copy; -1: none yet
        self._share(student)

    def _wrap(self, k: int, fusion: FFB | None) -> None:
        path = self.family.stages[k - 1]
        replace_module(
            self.model, path, ProxyStage(self.model.get_submodule(path), fusion, self.family.pair)
        )

    def _skip_start(self) -> list[int]:
        """Before the first fused stage, stages hand on the student's maps and other modules their
        input; returns these stages.
        """
        first = self.stages[0]
        for path in self.family.order[: self.family.order.index(self.family.stages[first - 1])]:
            if path in self.family.stages:
                self._wrap(self.family.stages.index(path) + 1, None)
            elif has_module(self.model, path):
                replace_module(self.model, path, nn.Identity())
        return list(range(1, first))

    def _disown(
        self, copies: list[tuple[str, nn.Module]]
    ) -> list[tuple[str, str, tuple[str, ...]]]:
        """Takes the copy's Parameters away; lists (path in P, path in S, names) of the tensors that
        P has from S.
        """
        paths = {module: path for path, module in self.model.named_modules()}
        shared = []
        for student_path, module in copies:
            names = tuple(name for name, p in module._parameters.items() if p is not None)
            for name in names:
                value = module._parameters.pop(name).detach()
                if self.sync != "step":
                    # persistent: an interrupted run resumes with it
                    module.register_buffer(name, value)
            if self.student_norms and isinstance(module, _BatchNorm):
                names += ("running_mean", "running_var")
            if names and module in paths:
                shared.append((paths[module], student_path, names))
        return shared

    @torch.no_grad()
    def _share(self, student: nn.Module, blend: float = 1.0) -> None:
        """Makes P's weights S's; real copies move only that share `blend` of the way.

        Goes by path through both module trees: a DataParallel replica lists no parameters, but its
            modules have them.
        """
        own, theirs = dict(self.model.named_modules()), dict(student.named_modules())
        for path, student_path, names in self.shared:
            for name in names:
                value = getattr(theirs[student_path], name).detach()
                if (
                    self.sync == "step"
                    # S's running statistics change in place later, its weights only after the
                    # backward
                ):
                    setattr(
                        own[path], name, value.clone() if name.startswith("running_") else value
                    )
                elif blend == 1 or name.startswith("running_"):
                    getattr(own[path], name).copy_(value)  # in place: only this outlives a replica
                else:
                    getattr(own[path], name).lerp_(value, blend)

    def refresh(self, student: nn.Module, epoch: int) -> None:
        """Brings P's weights up to date, as SYNC says."""
        if self.sync == "step":
            self._share(student)
        elif self.sync != "checkpoint":
            last = int(self.synced)
            if last < 0 or (self.sync == "epoch" and last != epoch):
                self._share(student)
            elif self.sync == "ema":
                self._share(student, 1 - self.decay)
            self.synced.fill_(epoch)

    def train(self, mode: bool = True) -> "ProxyTeacher":
        super().train(mode)
        for path, _, names in self.shared:
            if "running_mean" in names:
                self.model.get_submodule(path).eval()
        return self

    def forward(
        self,
        image: Tensor,
        student: nn.Module,
        student_maps: list[Tensor],
        teacher_maps: dict[int, Tensor],
        epoch: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """One pass with S's current weights.

        Args:
            image: [N, 3, H, W].
            student: S (in a DataParallel replica, that replica's).
            student_maps: the stem's and each s_k.
            teacher_maps: {k: t_k} for each fused stage k, without gradient.
            epoch: 1-based.
        Returns:
            z_P [N, K], and the list of P's maps, f_k in the place of p_k.
        """
        self.refresh(student, epoch)
        wrapped = {
            k: self.model.get_submodule(self.family.stages[k - 1])
            for k in self.skipped + self.stages
        }
        try:
            for k, stage in wrapped.items():
                stage.student_map = (
                    student_maps[k].detach() if self.starts_inside and k <= self.stages[0] else None
                )
                stage.teacher_map = teacher_maps.get(k)
            logits, feats = self.model(image)
        finally:
            for stage in wrapped.values():
                stage.student_map = stage.teacher_map = None
        return logits, feats[self.family.maps]


def feature_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over samples of |a/|a| - b/|b||^2, maps flattened per sample. a, b: [N, C, H, W]; from 0
    to 4.
    """
    a, b = (F.normalize(at_least_float32(x).flatten(1), dim=1) for x in (a, b))  # [N, CHW]
    return (a - b).square().sum(1).mean()


def check_sync(cfg: CN) -> None:
    """Raises UserError unless there is a file exactly where SYNC wants one."""
    sync, path = cfg.SDKD.SYNC, cfg.SDKD.SYNC_CKPT
    if bool(path) != (sync == "checkpoint"):
        raise UserError(
            f"SDKD.SYNC_CKPT is {path!r} with SDKD.SYNC {sync!r}; only checkpoint has a file"
        )


def fused_stages(wanted: list[int], n: int) -> list[int]:
    """SDKD.STAGES in ascending order; all n stages if empty. Raises UserError for one beyond n."""
    if max(wanted, default=0) > n:
        raise UserError(
            f"SDKD.STAGES is {wanted}; allowed: different whole numbers from 1 to {n} for this "
            f"student, [] for all"
        )
    return sorted(wanted) or list(range(1, n + 1))


def trained_student(student: nn.Module, path: str) -> nn.Module:
    """A copy of the student with the weights of SDKD.SYNC_CKPT. Raises UserError when they cannot
    be had.
    """
    trained = copy.deepcopy(student)
    try:
        load_weights(trained, path, type(student).__name__)
    except UserError as error:
        raise UserError(
            f"SDKD.SYNC_CKPT: {error}; wanted: {{'model': state_dict}} of a trained student"
        ) from error
    return trained


@METHODS.register(
    "SDKD",
    config=CONFIG,
    allowed=ALLOWED,
    rule=check_sync,
    epoch_keys=("WARMUP",),
    file_keys=("SYNC_CKPT",),
)
class SDKD(Distiller):
    """Student: CE(z_S,y) + w_t KL(z_T||z_S) + w_p KL(sg z_P||z_S) + w_f sum_k d(s_k, sg f_k);
    FFBs: w_pc CE(z_P,y) + w_m KL(sg z_S||z_P) + w_pt KL(z_T||z_P); every KL times tau^2.

    A weight of zero skips what it weighs; with all of P's weights at zero there is no P, with all
    but the first no teacher pass.
    Source: the paper's poster; what it leaves open, and our choice, is listed in the card.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CN):
        super().__init__(student, teacher)
        self.cfg, self.weights, self.proxy = cfg.SDKD, cfg.SDKD.LOSS, None
        if any(self.weights[key] for key in PROXY_WEIGHTS):
            self.teacher_family = find_family(teacher)
            n, m = len(find_family(student).stages), len(self.teacher_family.stages)
            # student's stage: teacher's
            self.pairs = {k: math.ceil(k * m / n) for k in fused_stages(self.cfg.STAGES, n)}
            channels = stage_channels(teacher, self.teacher_family)
            source = (
                trained_student(student, self.cfg.SYNC_CKPT)
                if self.cfg.SYNC == "checkpoint"
                else student
            )
            self.proxy = ProxyTeacher(
                source, {k: channels[j] for k, j in self.pairs.items()}, self.cfg
            )

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        w, tau = self.weights, self.cfg.TAU
        z_s, feats = self.student(image)
        if self.proxy is not None or w.TEACHER_WEIGHT:
            with torch.no_grad():
                z_t, teacher_feats = self.teacher(image)
        if self.proxy is not None:
            s = feats[self.proxy.family.maps]
            z_p, f = self.proxy(image, self.student, s, self._teacher_maps(teacher_feats), epoch)
        self.terms = {}
        loss_ce = self._weigh(
            z_s.new_zeros(()),
            ce=(w.CE_WEIGHT, lambda: cross_entropy(z_s, target)),
            proxy_ce=(w.PROXY_CE_WEIGHT, lambda: cross_entropy(z_p, target)),
        )
        loss_kd = warmup_factor(epoch, self.cfg.WARMUP) * self._weigh(
            z_s.new_zeros(()),
            kd_teacher=(w.TEACHER_WEIGHT, lambda: kd_loss(z_s, z_t, tau)),
            kd_proxy=(w.PROXY_WEIGHT, lambda: kd_loss(z_s, z_p.detach(), tau)),
            feat=(
                w.FEAT_WEIGHT,
                lambda: sum(feature_distance(s[k], f[k].detach()) for k in self.pairs),
            ),
            mutual=(w.MUTUAL_WEIGHT, lambda: kd_loss(z_p, z_s.detach(), tau)),
            proxy_kd_teacher=(w.PROXY_TEACHER_WEIGHT, lambda: kd_loss(z_p, z_t, tau)),
        )
        return z_s, {"loss_ce": loss_ce, "loss_kd": loss_kd}

    def _weigh(self, total: Tensor, **terms: tuple[float, Callable[[], Tensor]]) -> Tensor:
        """Adds weight times term; a term without weight is not computed. Keeps each term,
        unweighted, for the log.
        """
        for name, (weight, compute) in terms.items():
            if weight:
                value = compute()
                self.terms[name] = value.detach()
                total = total + weight * value
        return total

    def _teacher_maps(self, feats: dict) -> dict[int, Tensor]:
        maps = {k: feats[self.teacher_family.maps][j] for k, j in self.pairs.items()}
        if self.cfg.TEACHER_FEATURES == "zeros":
            return {k: torch.zeros_like(t) for k, t in maps.items()}
        return (
            {k: t.roll(1, 0) for k, t in maps.items()}
            if self.cfg.TEACHER_FEATURES == "shuffled"
            else maps
        )

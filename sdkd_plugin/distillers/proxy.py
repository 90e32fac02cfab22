"""The proxy teacher of SDKD: the student's own layers, fused with the teacher's maps.

Notation as in the card (docs/methods/sdkd.md): S student, T frozen teacher, P proxy teacher; s_k,
t_k, p_k the maps after stage k; f_k the fused map; sg stops the gradient.
"""

import copy
from collections import OrderedDict
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from yacs.config import CfgNode as CN

from sdkd_plugin.distillers.host_copy import HostCopy
from sdkd_plugin.distillers.maps import pool_to
from sdkd_plugin.models.base import conv_norm, last_norm
from sdkd_plugin.models.families import find_family, has_module, replace_module, stage_channels


class FFB(nn.Module):
    """Feature Fusion Block: f_k from the proxy's p_k and the teacher's t_k.

    t = resize(BN(conv1x1(t_k)));
    gate:     BN(conv3x3(a p_k + b t)), with two maps a, b = sigmoid(conv1x1([p_k, t]));
    concat:   BN(conv1x1([p_k, t]));
    residual: p_k + BN0(conv3x3(relu(BN(conv1x1([p_k, t]))))), where BN0 starts at zero, so that f_k
              starts as p_k;
    teacher:  t, a control: P's own map is dropped;
    then relu, unless p_k is signed.

    Args:
        channels: of p_k and f_k.
        teacher_channels: of t_k.
        kind: gate | concat | residual | teacher.
        signed: whether p_k, and so f_k, has both signs.
    """

    def __init__(self, channels: int, teacher_channels: int, kind: str, signed: bool):
        super().__init__()
        self.kind = kind
        self.signed = signed
        self.project = conv_norm(teacher_channels, channels, 1)
        if kind == "gate":
            self.gates = nn.Conv2d(2 * channels, 2, 1)
            self.fuse = conv_norm(channels, channels, 3)
        elif kind == "concat":
            self.fuse = conv_norm(2 * channels, channels, 1)
        elif kind == "residual":
            narrow = conv_norm(2 * channels, channels, 1)
            self.fuse = nn.Sequential(*narrow, nn.ReLU(), *conv_norm(channels, channels, 3))
            nn.init.zeros_(last_norm(self.fuse).weight)

    def forward(self, proxy_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Maps [N, C, H, W] and [N, C_t, H_t, W_t] to [N, C, H, W]."""
        p = proxy_map
        t = resize(self.project(teacher_map), p.shape[-2:])  # [N, C, H, W]
        if self.kind == "teacher":
            return t if self.signed else F.relu(t)
        both = torch.cat([p, t], 1)  # [N, 2C, H, W]
        if self.kind == "gate":
            gates = torch.sigmoid(self.gates(both))  # [N, 2, H, W]
            f = self.fuse(p * gates[:, :1] + t * gates[:, 1:])  # [N, C, H, W]
        elif self.kind == "concat":
            f = self.fuse(both)  # [N, C, H, W]
        else:
            f = p + self.fuse(both)  # [N, C, H, W]
        return f if self.signed else F.relu(f)


def resize(x: Tensor, size: torch.Size) -> Tensor:
    """Adaptive average pooling down, bilinear interpolation up, to [..., *size]."""
    if x.shape[-1] > size[-1]:
        return pool_to(x, size)
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class ProxyStage(nn.Module):
    """Stands in P where the family's stage stood, so that the model knows nothing of the fusion.

    Args:
        stage: the student's, copied.
        fusion: what its map goes through; None for a stage that only hands a map on.
        pair: whether the stage returns (out, preact), else out.
    """

    def __init__(self, stage: nn.Module, fusion: FFB | None, pair: bool):
        super().__init__()
        self.stage = stage
        self.fusion = fusion
        self.pair = pair
        # who watches the stage's output, as a library's model does, wants this one's now
        self._forward_hooks, stage._forward_hooks = stage._forward_hooks, OrderedDict()
        # handed in just before a forward and taken back after it; every DataParallel replica is an
        # object of its own
        self.student_map: Tensor | None = None
        self.teacher_map: Tensor | None = None

    @property
    def layer(self) -> Any:
        """WRN's forward reads the first norm of its blocks through this name."""
        return self.stage.layer

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        f = self.student_map  # [N, C, H, W]
        if f is None:
            f = self.stage(x)[0] if self.pair else self.stage(x)  # [N, C, H, W]
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

    synced: Tensor  # scalar: the epoch of the last copy; -1: none yet

    def __init__(self, student: nn.Module, teacher_channels: dict[int, int], cfg: CN):
        super().__init__()
        self.sync = cfg.SYNC
        self.decay = cfg.EMA_DECAY
        self.student_norms = cfg.PROXY_BN == "student"
        self.starts_inside = self.sync == "step" and not self.student_norms
        self.family = find_family(student)
        self.stages = list(teacher_channels)

        channels = stage_channels(student, self.family)
        self.model = copy.deepcopy(student)
        copies = list(self.model.named_modules())
        for k, c in teacher_channels.items():
            self._wrap(k, FFB(channels[k], c, cfg.FUSION, self.family.signed))
        self.skipped = self._skip_start() if self.starts_inside else []

        self.shared = self._disown(copies)
        self.register_buffer("synced", torch.tensor(-1))
        self._synced = HostCopy(self, "synced")
        self._share(student)

    def _wrap(self, k: int, fusion: FFB | None) -> None:
        path = self.family.stages[k - 1]
        stage = self.model.get_submodule(path)
        replace_module(self.model, path, ProxyStage(stage, fusion, self.family.pair))

    def _stage(self, k: int) -> ProxyStage:
        stage = self.model.get_submodule(self.family.stages[k - 1])
        assert isinstance(stage, ProxyStage)
        return stage

    def _skip_start(self) -> list[int]:
        """Before the first fused stage, stages hand on S's maps and other modules their input.

        Returns:
            these stages.
        """
        first = self.stages[0]
        end = self.family.order.index(self.family.stages[first - 1])
        for path in self.family.order[:end]:
            if path in self.family.stages:
                self._wrap(self.family.stages.index(path) + 1, None)
            elif has_module(self.model, path):
                replace_module(self.model, path, nn.Identity())
        return list(range(1, first))

    def _disown(
        self, copies: list[tuple[str, nn.Module]]
    ) -> list[tuple[str, str, tuple[str, ...]]]:
        """Takes the copy's Parameters away.

        Returns:
            (path in P, path in S, names) of the tensors that P has from S.
        """
        paths = {module: path for path, module in self.model.named_modules()}
        shared = []
        for student_path, module in copies:
            own = {name: p for name, p in module._parameters.items() if p is not None}
            for name, parameter in own.items():
                del module._parameters[name]
                if self.sync != "step":
                    # persistent: an interrupted run resumes with it
                    module.register_buffer(name, parameter.detach())

            names = tuple(own)
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
        own = dict(self.model.named_modules())
        theirs = dict(student.named_modules())
        replica = getattr(self, "_is_replica", False)  # DataParallel's word for one
        for path, student_path, names in self.shared:
            for name in names:
                value = getattr(theirs[student_path], name).detach()
                counted = name.startswith("running_")
                if self.sync == "step":
                    # S's running statistics change in place later, its weights only after the
                    # backward
                    setattr(own[path], name, value.clone() if counted else value)
                    continue

                held = getattr(own[path], name)
                new = value.clone() if blend == 1 or counted else held.lerp(value, blend)
                if replica:
                    held.copy_(new)  # only what is changed in place outlives it
                else:
                    setattr(own[path], name, new)  # a backward to come may need the old one

    def refresh(self, student: nn.Module, epoch: int) -> None:
        """Brings P's weights up to date, as SYNC says."""
        if self.sync == "step":
            self._share(student)
            return
        if self.sync == "checkpoint":
            return

        last = self._synced.read(self)
        if last < 0 or (self.sync == "epoch" and last != epoch):
            self._share(student)
        elif self.sync == "ema":
            self._share(student, 1 - self.decay)
        self._synced.write(self, epoch)

    def train(self, mode: bool = True) -> Self:
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
        return self.fuse(image, student_maps, teacher_maps)

    def fuse(
        self, image: Tensor, student_maps: list[Tensor], teacher_maps: dict[int, Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """`forward` with the weights that P has."""
        wrapped = {k: self._stage(k) for k in self.skipped + self.stages}
        try:
            for k, stage in wrapped.items():
                inside = self.starts_inside and k <= self.stages[0]
                stage.student_map = student_maps[k].detach() if inside else None
                stage.teacher_map = teacher_maps.get(k)
            logits, feats = self.model(image)
        finally:
            for stage in wrapped.values():
                stage.student_map = stage.teacher_map = None
        return logits, feats[self.family.maps]

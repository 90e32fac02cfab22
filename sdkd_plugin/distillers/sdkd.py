"""SDKD: the student learns from a proxy teacher made of its own weights and trainable feature
fusion blocks.

Notation as in the card (docs/methods/sdkd.md): S student, T frozen teacher, P proxy teacher; z
logits; s_k, t_k, p_k the maps after stage k; f_k the fused map; sg stops the gradient. P is a
network as large as a model of the zoo, so it has a file of its own, `proxy.py`: the one exception
to "one method, one file".
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import Above, Anything, AtLeast, Between, Numbers, OneOf
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import Distiller, Step, add_up, at_least_float32, cross_entropy
from sdkd_plugin.distillers.dkd import warmup_factor
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.distillers.proxy import ProxyTeacher
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.families import find_family, stage_channels
from sdkd_plugin.registry import METHODS
from sdkd_plugin.weights import load_weights

LOSS = {
    "CE_WEIGHT": 1.0,  # CE(z_S, y)
    "TEACHER_WEIGHT": 2.0,  # w_t: KL(z_T || z_S)
    "PROXY_WEIGHT": 2.0,  # w_p: KL(sg z_P || z_S)
    "FEAT_WEIGHT": 0.2,  # w_f: sum over fused stages of d(s_k, sg f_k)
    "PROXY_CE_WEIGHT": 1.0,  # w_pc: CE(z_P, y), trains the fusion blocks, as do the next two
    "MUTUAL_WEIGHT": 1.0,  # w_m: KL(sg z_S || z_P)
    "PROXY_TEACHER_WEIGHT": 2.0,  # w_pt: KL(z_T || z_P)
}
CONFIG = {
    "TAU": 4.0,  # temperature of every KL term
    "PROXY_TAU": 0.0,  # temperature of the KL terms that z_P takes part in; 0: TAU
    "STAGES": [],  # student stages that are fused, 1-based after the stem; empty: all
    "FUSION": "residual",  # gate | concat | residual | teacher (a control, of one stage)
    "SYNC": "ema",  # when P copies S's weights: step | epoch | init | ema | checkpoint
    "SYNC_CKPT": "",  # SYNC checkpoint only: file {"model": state_dict} of a trained student
    "EMA_DECAY": 0.99,  # SYNC ema only: share of the old average kept in each step
    # P's norms use: batch (batch statistics, own buffers) | student (S's running statistics)
    "PROXY_BN": "batch",
    # what the fusion sees of T: own | zeros | shuffled (the image before's); two are controls
    "TEACHER_FEATURES": "own",
    "WARMUP": 0,  # epochs over which every KL and feature term ramps up linearly; 0: none
    # epochs over which P takes its share of the student's KL over from T, linearly; 0: at once
    "HANDOVER": 0,
    "LOSS": LOSS,
    **lskd.CONFIG,
}
ALLOWED = {
    "TAU": Above(0),
    "PROXY_TAU": AtLeast(0),
    "STAGES": Numbers("different whole numbers from 1", AtLeast(1), whole=True, different=True),
    "FUSION": OneOf(("gate", "concat", "residual", "teacher")),
    "SYNC": OneOf(("step", "epoch", "init", "ema", "checkpoint")),
    "SYNC_CKPT": Anything(),
    "EMA_DECAY": Between(0, 1.0),
    "PROXY_BN": OneOf(("batch", "student")),
    "TEACHER_FEATURES": OneOf(("own", "zeros", "shuffled")),
    "WARMUP": AtLeast(0),
    "HANDOVER": AtLeast(0),
    **{f"LOSS.{name}": AtLeast(0) for name in LOSS},
    **lskd.ALLOWED,
}
PROXY_WEIGHTS = (
    "PROXY_WEIGHT",
    "FEAT_WEIGHT",
    "PROXY_CE_WEIGHT",
    "MUTUAL_WEIGHT",
    "PROXY_TEACHER_WEIGHT",
)


def feature_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over samples of |a/|a| - b/|b||^2, maps flattened per sample.

    Args:
        a, b: [N, C, H, W].
    Returns:
        scalar, from 0 to 4.
    """
    a, b = (F.normalize(at_least_float32(x).flatten(1), dim=1) for x in (a, b))  # [N, C H W]
    return (a - b).square().sum(1).mean()


def check_settings(cfg: CN) -> None:
    """Raises UserError unless there is a file exactly where SYNC wants one, and one stage where
    FUSION wants one.
    """
    sync = cfg.SDKD.SYNC
    path = cfg.SDKD.SYNC_CKPT
    if bool(path) != (sync == "checkpoint"):
        raise UserError(
            f"SDKD.SYNC_CKPT is {path!r} with SDKD.SYNC {sync!r}; only checkpoint has a file"
        )
    if cfg.SDKD.FUSION == "teacher" and len(cfg.SDKD.STAGES) != 1:
        raise UserError(
            f"SDKD.STAGES is {cfg.SDKD.STAGES} with SDKD.FUSION 'teacher'; it wants one stage, "
            "since it drops P's own map, and with it what blocks before the last fused stage do"
        )


def fused_stages(wanted: list[int], n: int) -> list[int]:
    """SDKD.STAGES in ascending order; all n stages if empty. Raises UserError for one beyond n."""
    if max(wanted, default=0) > n:
        raise UserError(
            f"SDKD.STAGES is {wanted}; allowed: different whole numbers from 1 to {n} for this "
            "student, [] for all"
        )
    return sorted(wanted) or list(range(1, n + 1))


def trained_student(student: nn.Module, path: str) -> nn.Module:
    """A copy of the student with the weights of SDKD.SYNC_CKPT.

    Raises:
        UserError: they cannot be had.
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
    rule=check_settings,
    epoch_keys=("WARMUP", "HANDOVER"),
    file_keys=("SYNC_CKPT",),
    # another image's features are those of the one before in the batch
    whole_batch_if={"TEACHER_FEATURES": "shuffled"},
)
class SDKD(Distiller):
    """Student: CE(z_S,y) + w_t KL(z_T||z_S) + w_p KL(sg z_P||z_S) + w_f sum_k d(s_k, sg f_k);
    FFBs: w_pc CE(z_P,y) + w_m KL(sg z_S||z_P) + w_pt KL(z_T||z_P); every KL times its tau^2.
    While HANDOVER lasts, T has what P does not yet have of w_p.

    A weight of zero skips what it weighs; with all of P's weights at zero there is no P, with all
    but the first no teacher pass.
    Source: the paper's poster; what it leaves open, and our choice, is listed in the card.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CN):
        super().__init__(student, teacher)
        self.cfg = cfg.SDKD
        self.weights = cfg.SDKD.LOSS
        self.proxy: ProxyTeacher | None = None
        if any(self.weights[key] for key in PROXY_WEIGHTS):
            self.proxy = self._make_proxy(student, teacher)

    def _make_proxy(self, student: nn.Module, teacher: nn.Module) -> ProxyTeacher:
        self.teacher_family = find_family(teacher)
        n = len(find_family(student).stages)
        m = len(self.teacher_family.stages)
        # student's stage: teacher's
        self.pairs = {k: math.ceil(k * m / n) for k in fused_stages(self.cfg.STAGES, n)}

        source = student
        if self.cfg.SYNC == "checkpoint":
            source = trained_student(student, self.cfg.SYNC_CKPT)
        channels = stage_channels(teacher, self.teacher_family)
        return ProxyTeacher(source, {k: channels[j] for k, j in self.pairs.items()}, self.cfg)

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        w = self.weights
        tau = self.cfg.TAU
        proxy_tau = self.cfg.PROXY_TAU or tau
        w_t, w_p = self._shares(epoch)
        z_s, feats = self.student(image)  # [N, K]
        if self.proxy is not None or w_t:
            with torch.no_grad():
                z_t, teacher_feats = self.teacher(image)  # [N, K]
        if self.proxy is not None:
            s = feats[self.proxy.family.maps]  # [N, C_k, H_k, W_k] each, as f and t
            z_p, f = self.proxy(image, self.student, s, self.teacher_maps(teacher_feats), epoch)

        self.terms = {}
        loss_ce = self._weigh(
            z_s.new_zeros(()),
            ce=(w.CE_WEIGHT, lambda: cross_entropy(z_s, target)),
            proxy_ce=(w.PROXY_CE_WEIGHT, lambda: cross_entropy(z_p, target)),
        )
        loss_kd = warmup_factor(epoch, self.cfg.WARMUP) * self._weigh(
            z_s.new_zeros(()),
            kd_teacher=(w_t, lambda: self._kl(z_s, z_t, tau)),
            kd_proxy=(w_p, lambda: self._kl(z_s, z_p.detach(), proxy_tau)),
            feat=(
                w.FEAT_WEIGHT,
                lambda: add_up(feature_distance(s[k], f[k].detach()) for k in self.pairs),
            ),
            mutual=(w.MUTUAL_WEIGHT, lambda: self._kl(z_p, z_s.detach(), proxy_tau)),
            proxy_kd_teacher=(w.PROXY_TEACHER_WEIGHT, lambda: self._kl(z_p, z_t, proxy_tau)),
        )
        return z_s, {"loss_ce": loss_ce, "loss_kd": loss_kd}

    def _kl(self, logits: Tensor, goal: Tensor, tau: float) -> Tensor:
        """tau^2 KL(goal || logits), both [N, K]."""
        return kd_loss(*kl_logits(self.cfg.LOGIT_STANDARD, logits, goal), tau)

    def _shares(self, epoch: int) -> tuple[float, float]:
        """The weights of T's and of P's KL on the student in this epoch; their sum is w_t + w_p."""
        w_p = warmup_factor(epoch, self.cfg.HANDOVER) * self.weights.PROXY_WEIGHT
        return self.weights.TEACHER_WEIGHT + (self.weights.PROXY_WEIGHT - w_p), w_p

    def _weigh(self, total: Tensor, **terms: tuple[float, Callable[[], Tensor]]) -> Tensor:
        """Adds weight times term to the total; a term without weight is not computed.

        Keeps each term, unweighted, for the log.
        """
        for name, (weight, compute) in terms.items():
            if weight:
                value = compute()
                self.terms[name] = value.detach()
                total = total + weight * value
        return total

    def teacher_maps(self, feats: dict[str, Any]) -> dict[int, Tensor]:
        """{k: t_k [N, C, H, W]} for each fused stage k."""
        maps = {k: feats[self.teacher_family.maps][j] for k, j in self.pairs.items()}
        if self.cfg.TEACHER_FEATURES == "zeros":
            return {k: torch.zeros_like(t) for k, t in maps.items()}
        if self.cfg.TEACHER_FEATURES == "shuffled":
            return {k: t.roll(1, 0) for k, t in maps.items()}
        return maps

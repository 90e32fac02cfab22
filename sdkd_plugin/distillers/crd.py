"""CRD: student and teacher embeddings of one image attract, those of other classes' images repel.

Source: Tian et al., ICLR 2020, arXiv 1910.10699.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from yacs.config import CfgNode

from sdkd_plugin.allowed import Above, Anything, AtLeast, Between, OneOf
from sdkd_plugin.distillers.base import (
    Distiller,
    Step,
    at_least_float32,
    cross_entropy,
    full_precision,
)
from sdkd_plugin.distillers.host_copy import HostCopy
from sdkd_plugin.models.outline import outline
from sdkd_plugin.models.probe import pooled_dim
from sdkd_plugin.registry import METHODS

CONFIG = {
    "MODE": "exact",  # which sample is the positive: the image itself
    "FEAT": {
        "DIM": 128,  # length of both embeddings
        "STUDENT_DIM": 256,  # read by mdistiller only; here both pooled vectors are measured
        "TEACHER_DIM": 256,
    },
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        "FEAT_WEIGHT": 0.8,  # weight of the contrastive loss, both sides together
    },
    "NCE": {
        "K": 16384,  # negatives per image; at most the number of training images
        "MOMENTUM": 0.5,  # share of the old row when a memory row is renewed
        "TEMPERATURE": 0.07,  # tau, divides the cosine similarities
    },
}
ALLOWED = {
    "MODE": OneOf(("exact",)),  # DIFF 7
    "FEAT.DIM": AtLeast(1),
    "FEAT.STUDENT_DIM": Anything(),
    "FEAT.TEACHER_DIM": Anything(),
    "LOSS.CE_WEIGHT": AtLeast(0),
    "LOSS.FEAT_WEIGHT": AtLeast(0),
    "NCE.K": AtLeast(1),
    "NCE.MOMENTUM": Between(0, 1, without_high=True),
    "NCE.TEMPERATURE": Above(0),
}
EPS = 1e-7  # of the reference code; added to the noise density K / M


def contrastive_loss(
    emb: Tensor, memory: Tensor, contrastive_index: Tensor, tau: float, log_z: Tensor
) -> Tensor:
    """One side of CRD: -mean_i [log h(i, positive) + sum_k log(1 - h(i, k))].

    Negatives are drawn at density q = K / M. With x = exp(emb . row / tau) / Z, h = x / (x + q +
    EPS), and q / (x + q + EPS) stands for 1 - h. All in log space, since h is the sigmoid of
    log x - log(q + EPS): no similarity and no temperature overflows.

    Args:
        emb: [B, D], float32 or wider, rows of length 1.
        memory: [M, D], the other network's embeddings of all M training images; gets no gradient.
        contrastive_index: [B, 1 + K] int64 rows of the memory, the positive first; repeats count
            each time.
        tau: temperature, above 0.
        log_z: scalar tensor, log Z, see `log_normaliser`.
    Returns:
        scalar, at least 0.
    Source: arXiv 1910.10699, section 3.1; Z, EPS and q / (...) as the reference code has them
    (RepDistiller b84f547).
    """
    return _ContrastiveLoss.apply(emb, memory, contrastive_index, tau, log_z)


class _ContrastiveLoss(torch.autograd.Function):
    """Takes the gradient during the forward pass, because the memory's rows are renewed before the
    backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        emb: Tensor,
        memory: Tensor,
        contrastive_index: Tensor,
        tau: float,
        log_z: Tensor,
    ) -> Tensor:
        batch = contrastive_index.shape[0]
        negatives = contrastive_index.shape[1] - 1
        q = negatives / memory.shape[0]
        # DIFF 1: one product with the whole memory, then picking scores: B M numbers instead of B K
        # rows of D
        scores = emb / tau @ memory.T  # [B, M]

        # log(h / (1 - h))
        log_odds = scores.gather(1, contrastive_index).sub_(log_z + math.log(q + EPS))  # [B, 1 + K]
        log_odds[:, 1:].neg_()  # 1 - sigmoid(a) = sigmoid(-a)
        loss = -F.logsigmoid(log_odds).sum() / batch + negatives * math.log1p(EPS / q)

        # how far each h is from its goal: 1 for the positive, 0 for the negatives
        pull = torch.sigmoid(-log_odds)  # [B, 1 + K]
        pull[:, 1:].neg_()
        # -batch * d loss / d scores
        pull = scores.zero_().scatter_add_(1, contrastive_index, pull)  # [B, M]
        ctx.save_for_backward(pull @ memory / (-tau * batch))  # [B, D]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad_emb,) = ctx.saved_tensors  # [B, D]
        return grad * grad_emb, None, None, None, None


@torch.no_grad()
def log_normaliser(emb: Tensor, memory: Tensor, contrastive_index: Tensor, tau: float) -> Tensor:
    """log Z, where Z = M times the mean of exp(emb . row / tau) over all pairs: x has mean 1 / M.

    Args: as of `contrastive_loss`.
    """
    scores = (emb / tau @ memory.T).gather(1, contrastive_index)  # [B, 1 + K]
    return scores.flatten().logsumexp(0) + math.log(memory.shape[0] / scores.numel())


@torch.no_grad()
def renew(memory: Tensor, index: Tensor, emb: Tensor, momentum: float) -> None:
    """memory[index] <- normalise(momentum * memory[index] + (1 - momentum) * emb), in place.

    Args:
        memory: [M, D].
        index: [B] int64, without repeats.
        emb: [B, D].
    """
    memory.index_copy_(0, index, F.normalize(momentum * memory[index] + (1 - momentum) * emb))


def _dim(name: str) -> int | None:
    shape = outline(name)
    return shape and shape[0][-1]


@METHODS.register(
    "CRD",
    config=CONFIG,
    allowed=ALLOWED,
    trainer="crd",
    idle={
        "FEAT.STUDENT_DIM": lambda cfg: _dim(cfg.DISTILLER.STUDENT),
        "FEAT.TEACHER_DIM": lambda cfg: _dim(cfg.DISTILLER.TEACHER),
    },
)
class CRD(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * (student side + teacher side).

    Trains two linear embeddings beside the student.
    """

    needs_whole_batch = True
    needs_num_data = True
    needs_negatives = True

    memory_s: Tensor  # [M, DIM], a row per training image
    memory_t: Tensor
    log_z_s: Tensor  # scalar
    log_z_t: Tensor

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode, num_data: int):
        super().__init__(student, teacher)
        nce = cfg.CRD.NCE
        dim = cfg.CRD.FEAT.DIM
        # DIFF 2: at most the training images, so that q <= 1
        # DIFF 3: whoever draws them may repeat one
        self.num_negatives = min(nce.K, num_data)
        self.tau = nce.TEMPERATURE
        self.momentum = nce.MOMENTUM
        self.ce_weight = cfg.CRD.LOSS.CE_WEIGHT
        self.feat_weight = cfg.CRD.LOSS.FEAT_WEIGHT

        # DIFF 4: measured; mdistiller's 256 / 256 is right for the x4 pair alone
        self.embed_s = nn.Linear(pooled_dim(student), dim)
        self.embed_t = nn.Linear(pooled_dim(teacher), dim)

        bound = math.sqrt(3 / dim)  # uniform within it: rows of length about 1
        self.register_buffer("memory_s", torch.empty(num_data, dim).uniform_(-bound, bound))
        self.register_buffer("memory_t", torch.empty(num_data, dim).uniform_(-bound, bound))
        # infinite: not set; the first batch sets it for good
        self.register_buffer("log_z_s", torch.tensor(math.inf))
        self.register_buffer("log_z_t", torch.tensor(math.inf))
        self._log_z_s = HostCopy(self, "log_z_s")

    # the loop hands a method that needs negatives more than the others
    def forward_train(  # type: ignore[override]
        self,
        image: Tensor,
        target: Tensor,
        index: Tensor,
        contrastive_index: Tensor,
        epoch: int = 1,
        **extras: Any,
    ) -> Step:
        """As in `Distiller`; needs `index` [N] and `contrastive_index` [N, 1 + K], int64 positions
        in the training set.
        """
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        # DIFF 5: float32 also under autocast; exp(1 / 0.07) is beyond float16
        with full_precision(image):
            # DIFF 6: divided by max(length, 1e-12); [N, DIM]
            emb_s = F.normalize(self.embed_s(at_least_float32(feats_student["pooled_feat"])))
            emb_t = F.normalize(self.embed_t(at_least_float32(feats_teacher["pooled_feat"])))
            side_s, side_t = self._sides(emb_s, emb_t, contrastive_index)
            renew(self.memory_s, index, emb_s, self.momentum)
            renew(self.memory_t, index, emb_t, self.momentum)

        self.terms = {"crd_s": side_s.detach(), "crd_t": side_t.detach()}
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * (side_s + side_t),
        }

    def _sides(
        self, emb_s: Tensor, emb_t: Tensor, contrastive_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The student's loss against the teacher's memory, and the reverse; emb_* [N, DIM]."""
        if math.isinf(self._log_z_s.read(self)):
            log_z_s = log_normaliser(emb_s, self.memory_t, contrastive_index, self.tau)
            log_z_t = log_normaliser(emb_t, self.memory_s, contrastive_index, self.tau)
            self.log_z_s.copy_(log_z_s)
            self.log_z_t.copy_(log_z_t)
            self._log_z_s.forget()
        side_s = contrastive_loss(emb_s, self.memory_t, contrastive_index, self.tau, self.log_z_s)
        side_t = contrastive_loss(emb_t, self.memory_s, contrastive_index, self.tau, self.log_z_t)
        return side_s, side_t

"""KDSVD: maps shrunk to their first singular vectors, compared from stage to stage.

Source: Lee, Kim, Song, ECCV 2018, arXiv 1807.06819.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.allowed import AtLeast, OneOf
from sdkd_plugin.distillers.base import (
    Distiller,
    Step,
    add_up,
    at_least_float32,
    cross_entropy,
    full_precision,
)
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = {
    "K": 1,  # singular vectors kept per teacher map
    # what the singular vectors lie on: channels: X is (H W) x C (RepDistiller, paper) | width: X
    # is (C H) x W. mdistiller has no such key; it does "width"
    "FORM": "channels",
    "LOSS": {
        "CE_WEIGHT": 1.0,  # weight of the cross entropy with the labels
        "FEAT_WEIGHT": 1.0,  # weight of the singular vectors' distance
    },
}
FORMS = {"channels": 1, "width": 3}  # by form the axis of [N, C, H, W] that must have equal lengths
ALLOWED = {
    "K": AtLeast(1),
    "FORM": OneOf(tuple(FORMS)),
    "LOSS.CE_WEIGHT": AtLeast(0),
    "LOSS.FEAT_WEIGHT": AtLeast(0),
}
SPARE = 3  # more vectors of the student than of the teacher, to choose from


def kdsvd_loss(
    feats_student: Sequence[Tensor], feats_teacher: Sequence[Tensor], k: int, form: str
) -> Tensor:
    """1 / N sum over l >= 2 and all entries of (R_S - R_T)^2.

    R_abi = exp(-(V_l[a, i] - V_(l-1)[b, i])^2 / 8). V_l holds the first k right singular vectors of
    map l, column i times the i-th singular value of the teacher's k, divided by their norm. For
    each of the teacher's the student's is the one with the largest |cosine| among its first
    k + SPARE.

    Args:
        feats_student, feats_teacher: L maps [N, C, H, W], unbounded; equal C for "channels", equal
            W for "width".
        k: from 1 to the rank of the smallest map.
        form: "channels" or "width", see `matrix`.
    Returns:
        scalar, at least 0; no gradient reaches the teacher.
    Raises:
        UserError: a map has fewer than k singular vectors.
    Source: arXiv 1807.06819; alignment and sum as in RepDistiller b84f547.
    """
    with full_precision(feats_student[0]):
        students = []
        teachers = []
        for feat_student, feat_teacher in zip(feats_student, feats_teacher, strict=True):
            teacher, scale = _of_teacher(matrix(feat_teacher, form), k)
            own, _ = singular_vectors(matrix(feat_student, form), k + SPARE)  # [N, D, k + SPARE]
            students.append(aligned(own, teacher) * scale)  # [N, D, k]
            teachers.append(teacher * scale)  # [N, D, k]

        pairs = zip(_relations(students), _relations(teachers), strict=True)
        total = add_up((own - theirs).square().sum() for own, theirs in pairs)
    return total / len(feats_student[0])


@torch.no_grad()
def _of_teacher(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The teacher's vectors [N, D, k] of matrices [N, R, D], and what scales them, [N, 1, k]."""
    vectors, values = singular_vectors(x, k)
    if vectors.shape[2] < k:
        raise UserError(
            f"KDSVD.K is {k}, but a map has {vectors.shape[2]} singular vectors; allowed: that or "
            "less"
        )
    # DIFF 1: the sign, which an SVD leaves open, is fixed; between stages it decides the value
    vectors = torch.where(vectors.sum(1, keepdim=True) < 0, -vectors, vectors)
    return vectors, F.normalize(values, dim=1)[:, None]


def _relations(vectors: Sequence[Tensor]) -> list[Tensor]:
    """R between each map's vectors and those of the map before, [N, D_l, D_(l-1), k] each."""
    return [
        torch.exp((upper[:, :, None] - lower[:, None]).square() / -8)
        for lower, upper in pairwise(vectors)
    ]


def matrix(feat: Tensor, form: str) -> Tensor:
    """A map [N, C, H, W] as matrices, float32 or wider.

    "channels": [N, H W, C]; "width": [N, C H, W].
    """
    feat = at_least_float32(feat)
    return feat.flatten(2).mT if form == "channels" else feat.flatten(1, 2)


def singular_vectors(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The first n right singular vectors and values of each matrix, by its smaller Gram matrix.

    The gradient is that of the eigenvectors: dU_i = sum_j U_j (U_j . dG U_i) / (e_i - e_j), where d
    stands for the distance e_i - e_j of two eigenvalues, with 1 / d broadened to d / (d^2 + s^2):
    equal eigenvalues give no gradient instead of an infinite one. Vectors of singular value 0 are
    arbitrary; here they are 0 and have no gradient.

    Args:
        x: [N, R, D], float32 or wider.
        n: how many; at most min(R, D) are there.
    Returns:
        [N, D, n], columns of length 1 or 0, and [N, n], in falling order, divided by the matrix'
        Frobenius norm.
    """
    precision = torch.finfo(x.dtype).eps
    least = torch.finfo(x.dtype).tiny
    norm = torch.linalg.matrix_norm(x.detach(), keepdim=True).clamp_min(least)  # [N, 1, 1]
    x = x / norm  # no factor changes V, so this one needs no gradient
    wide = x.shape[1] < x.shape[2]
    gram = x @ x.mT if wide else x.mT @ x  # [N, M, M], M the smaller side

    # DIFF 2: an eigendecomposition of a small matrix, batched; the reference codes' SVD has no
    # gradient for equal singular values
    values, vectors = torch.linalg.eigh(gram.detach().nan_to_num())  # rising; NaN it would refuse
    top_values = values[:, -n:].flip(1)  # [N, n]
    top = vectors[:, :, -n:].flip(2)  # [N, M, n]

    distance = top_values[:, None] - values[:, :, None]  # [N, M, n]
    # s^2 is the precision: s lies half way to it, in digits
    inverse = distance / (distance.square() + precision)  # [N, M, n]
    # the value of this sum is 0; its gradient is the one above, since all but `gram` are constants
    top = top + vectors @ (inverse * (vectors.mT @ ((gram - gram.detach()) @ top)))

    there = top_values > precision * x.shape[-1]  # [N, n]
    # DIFF 3: NaN if the matrix is not finite, so that the loop can tell
    top = torch.where(there[:, None], top, 0 * norm)
    if wide:
        top = x.mT @ top  # [N, D, n]
        top = top / torch.where(there, torch.linalg.vector_norm(top, dim=1), 1)[:, None]
    return top, top_values.clamp_min(0).sqrt()


def aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """For each teacher vector the student vector of largest |cosine|, with that cosine's sign.

    A cosine of 0 gives a zero vector.

    Args:
        student: [N, D, m].
        teacher: [N, D, k].
    Returns:
        [N, D, k]; a student vector may be taken more than once.
    """
    cosine = student.detach().mT @ teacher  # [N, m, k]
    best = cosine.abs().argmax(1, keepdim=True)  # [N, 1, k]
    return student.gather(2, best.expand(-1, student.shape[1], -1)) * cosine.gather(1, best).sign()


# in mdistiller FORM is one of its own unless set, so that its yaml means its loss
@METHODS.register("KDSVD", config=CONFIG, allowed=ALLOWED, upstream={"FORM": "width"})
class KDSVD(Distiller):
    """CE_WEIGHT * CE + FEAT_WEIGHT * `kdsvd_loss` of the stages after the stem; nothing trainable
    beside the student.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher)
        self.k = cfg.KDSVD.K
        self.form = cfg.KDSVD.FORM
        self.ce_weight = cfg.KDSVD.LOSS.CE_WEIGHT
        self.feat_weight = cfg.KDSVD.LOSS.FEAT_WEIGHT

        maps = [probe(net)[1]["feats"][1:] for net in (student, teacher)]
        sides = {
            form: [[x.shape[axis] for x in of_net] for of_net in maps]
            for form, axis in FORMS.items()
        }
        sides_s, sides_t = sides[self.form]
        if sides_s != sides_t:
            what = "channels" if self.form == "channels" else "widths in pixels"
            fitting = [form for form, (ours, theirs) in sides.items() if ours == theirs]
            advice = "".join(f"set KDSVD.FORM to {form!r} or " for form in fitting)
            raise UserError(
                f"KDSVD.FORM {self.form!r} needs equal {what} in all stages, but the student has "
                f"{sides_s} and the teacher {sides_t}: {advice}choose another DISTILLER.STUDENT or "
                "DISTILLER.TEACHER"
            )

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, feats_student = self.student(image)  # [N, K]
        with torch.no_grad():
            _, feats_teacher = self.teacher(image)

        own = feats_student["feats"][1:]
        theirs = feats_teacher["feats"][1:]
        distance = kdsvd_loss(own, theirs, self.k, self.form)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * distance,
        }

"""FSP: before training, the student learns how the teacher's maps flow from stage to stage.

Source: Yim, Joo, Bae, Kim, CVPR 2017.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from sdkd_plugin.distillers import feature_init
from sdkd_plugin.distillers.base import add_up, at_least_float32, full_precision
from sdkd_plugin.distillers.feature_init import FeatureInit
from sdkd_plugin.distillers.maps import pool_pair
from sdkd_plugin.errors import UserError
from sdkd_plugin.models.probe import probe
from sdkd_plugin.registry import METHODS

CONFIG = dict(feature_init.CONFIG)
ALLOWED = dict(feature_init.ALLOWED)


def flow(bottom: Tensor, top: Tensor) -> Tensor:
    """M = 1 / (H W) sum over positions of top bottom^T, at the smaller of the two maps' sizes.

    Args:
        bottom: [N, C, H, W], the earlier map.
        top: [N, D, H', W'], the later one.
    Returns:
        [N, D, C].
    """
    bottom, top = pool_pair(bottom, top)  # [N, C, H, W], [N, D, H, W]
    # DIFF 1: a batched product, where the reference code forms all N D C H W products and averages
    return top.flatten(2) @ bottom.flatten(2).mT / top[0, 0].numel()


def fsp_loss(feats_student: Sequence[Tensor], feats_teacher: Sequence[Tensor]) -> Tensor:
    """Sum over consecutive maps l, l + 1 of mean (M_student - M_teacher)^2, with M as in `flow`.

    Args:
        feats_student, feats_teacher: maps [N, C_l, H_l, W_l], stem first, unbounded; equal numbers
            and channels, not sizes.
    Returns:
        scalar, at least 0; mean over the batch and the entries of M.
    Source: Yim et al., CVPR 2017; pooling and mean as in the reference code (RepDistiller b84f547).
    """
    with full_precision(feats_student[0]):
        pairs = zip(_flows(feats_student), _flows(feats_teacher), strict=True)
        return add_up(F.mse_loss(student, teacher) for student, teacher in pairs)


def _flows(feats: Sequence[Tensor]) -> list[Tensor]:
    """From each map to the next, [N, C_(l+1), C_l] each."""
    wide = [at_least_float32(feat) for feat in feats]
    return [flow(bottom, top) for bottom, top in pairwise(wide)]


@METHODS.register(
    "FSP",
    config=CONFIG,
    allowed=ALLOWED,
    epoch_keys=("INIT_EPOCHS",),
    renamed=feature_init.RENAMED,
)
class FSP(FeatureInit):
    """`FeatureInit` with `fsp_loss` on all maps, the stem's too; trains nothing but the student."""

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CfgNode):
        super().__init__(student, teacher, "FSP", cfg.FSP)

        channels_s, channels_t = (
            [x.shape[1] for x in probe(net)[1]["feats"]] for net in (student, teacher)
        )
        if channels_s != channels_t:
            raise UserError(
                f"FSP needs equal channels in all maps, but the student has {channels_s} and the "
                f"teacher {channels_t}: choose another DISTILLER.STUDENT or DISTILLER.TEACHER"
            )

    def init_loss(self, feats_student: dict, feats_teacher: dict) -> Tensor:
        return fsp_loss(feats_student["feats"], feats_teacher["feats"])

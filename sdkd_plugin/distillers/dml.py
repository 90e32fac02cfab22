"""DML: two untrained networks train together, each imitating the other's probabilities.

Source: Zhang et al., CVPR 2018, arXiv 1706.00384.
"""

from typing import Any

from torch import Tensor, nn
from yacs.config import CfgNode as CN

from sdkd_plugin.allowed import Above, AtLeast
from sdkd_plugin.distillers import lskd
from sdkd_plugin.distillers.base import Distiller, Phase, Step, cross_entropy
from sdkd_plugin.distillers.kd import kd_loss
from sdkd_plugin.distillers.lskd import kl_logits
from sdkd_plugin.registry import METHODS

CONFIG = {
    "CE_WEIGHT": 1.0,  # weight of both cross entropies with the labels
    "KD_WEIGHT": 1.0,  # weight of both KL terms
    "TAU": 1.0,  # temperature, divides both logits
    "PEER_LR_FACTOR": 1.0,  # the peer's learning rate relative to SOLVER.LR
    **lskd.CONFIG,
}
ALLOWED = {
    "CE_WEIGHT": AtLeast(0),
    "KD_WEIGHT": AtLeast(0),
    "TAU": Above(0),
    "PEER_LR_FACTOR": Above(0),
    **lskd.ALLOWED,
}


def mutual_losses(logits_student: Tensor, logits_peer: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """tau^2 KL(p_peer || p_student) and tau^2 KL(p_student || p_peer).

    In each the first argument is a constant target.

    Args:
        logits_student, logits_peer: [N, K], unbounded.
        tau: temperature, above 0.
    Returns:
        the student's and the peer's loss, scalars, averaged over the batch.
    Raises:
        UserError: tau is not above 0, or the two shapes differ.
    Source: arXiv 1706.00384, equations 2 to 6, there with tau = 1.
    """
    # DIFF 2: in log space, where the authors' code adds 1e-8 inside the logarithm
    kd_student = kd_loss(logits_student, logits_peer.detach(), tau)
    kd_peer = kd_loss(logits_peer, logits_student.detach(), tau)
    return kd_student, kd_peer


@METHODS.register("DML", config=CONFIG, allowed=ALLOWED, renamed={"T": "TAU"})
class DML(Distiller):
    """CE_WEIGHT * (CE of both) + KD_WEIGHT * (KL of both); the peer is the teacher's architecture.

    The targets are constants and the two networks share no parameter, so one backward pass of the
    sum gives each network the gradient of its own loss.
    """

    teacher_from = "scratch"  # DIFF 3: one peer

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CN):
        super().__init__(student, teacher)
        self.tau = cfg.DML.TAU
        self.ce_weight = cfg.DML.CE_WEIGHT
        self.kd_weight = cfg.DML.KD_WEIGHT
        self.peer_lr_factor = cfg.DML.PEER_LR_FACTOR
        self.standard = cfg.DML.LOGIT_STANDARD

    def get_parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        student = list(self.student.parameters())
        peer = list(self.teacher.parameters())
        return [{"params": student}, {"params": peer, "lr_factor": self.peer_lr_factor}]

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras: Any) -> Step:
        logits_student, _ = self.student(image)  # [N, K]
        logits_peer, _ = self.teacher(image)  # [N, K]

        # DIFF 1: both from one forward pass each, where the paper's algorithm updates one network
        # before the other looks
        seen = kl_logits(self.standard, logits_student, logits_peer)  # [N, K] both
        kd_student, kd_peer = mutual_losses(*seen, self.tau)
        ce_student = cross_entropy(logits_student, target)
        ce_peer = cross_entropy(logits_peer, target)
        self.terms = {"peer_ce": ce_peer.detach(), "peer_kd": kd_peer.detach()}
        return logits_student, {
            "loss_ce": self.ce_weight * (ce_student + ce_peer),
            "loss_kd": self.kd_weight * (kd_student + kd_peer),
        }

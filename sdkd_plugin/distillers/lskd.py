"""LSKD: each sample's logits are standardised before a KL compares them (Sun et al., CVPR 2024,
arXiv 2403.01427).

No method but an option of every method that has a KL of logits: the key LOGIT_STANDARD of its node.
"""

from torch import Tensor

from sdkd_plugin.allowed import Anything
from sdkd_plugin.distillers.base import at_least_float32
from sdkd_plugin.errors import UserError

CONFIG = {"LOGIT_STANDARD": False}  # whether every KL of logits sees them standardised
ALLOWED = {"LOGIT_STANDARD": Anything()}
EPS = 1e-7  # added to the deviation, as in the authors' code


def standardised(logits: Tensor) -> Tensor:
    """(z - mean(z)) / (EPS + std(z)) of every row: what is left are the relations of its classes.

    std has K - 1 in its denominator. The gradient flows through mean and std, too.

    Args:
        logits: [..., K], unbounded, K >= 2.
    Returns:
        [..., K], float32 or wider; rows of mean 0 and deviation 1, a constant row all 0.
    Raises:
        UserError: fewer than two classes, which have no deviation.
    Source: arXiv 2403.01427; std and EPS as in the authors' code (f6e5aa5).
    """
    if logits.shape[-1] < 2:
        raise UserError(
            f"LOGIT_STANDARD got logits for {logits.shape[-1]} class; allowed: 2 or more, since "
            "one has no deviation"
        )
    logits = at_least_float32(logits)  # [..., K]; EPS is 0 in float16
    mean = logits.mean(-1, keepdim=True)  # [..., 1]
    deviation = logits.std(-1, keepdim=True)  # [..., 1]
    return (logits - mean) / (EPS + deviation)


def kl_logits(
    standard: bool, logits_student: Tensor, logits_teacher: Tensor
) -> tuple[Tensor, Tensor]:
    """What a KL of a method with LOGIT_STANDARD `standard` sees of the two networks' logits.

    Args:
        standard: the method's LOGIT_STANDARD.
        logits_student, logits_teacher: [..., K], unbounded.
    Returns:
        both, as they are or standardised.
    """
    if not standard:
        return logits_student, logits_teacher
    return standardised(logits_student), standardised(logits_teacher)

"""What methods that compare maps share: a common size, rows of length 1, a convolution from one
shape to another.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12  # rows shorter than this have no direction


def pool_to(feat: Tensor, size: Sequence[int]) -> Tensor:
    """A map [N, C, H, W], average-pooled to this height and width."""
    return F.adaptive_avg_pool2d(feat, (size[0], size[1]))


def pool_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [N, C, H, W] and [N, D, H', W'], each average-pooled to the smaller height and width
    of the two.
    """
    size = [min(sides) for sides in zip(a.shape[2:], b.shape[2:], strict=True)]
    # pooling is left out where it would change nothing but cost time
    a, b = (x if list(x.shape[2:]) == size else pool_to(x, size) for x in (a, b))
    return a, b


def unit(x: Tensor) -> Tensor:
    """x [..., D] with rows of length 1; a row shorter than EPS becomes 0 and gets no gradient.

    F.normalize would divide such a row by EPS instead, and hand it 1e12 times the gradient.
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # [..., 1]
    return x * torch.where(length > EPS, length.clamp_min(EPS).reciprocal(), 0)


def fitting_convolution(student: torch.Size, teacher: torch.Size) -> nn.Module | None:
    """A convolution with bias from a student map to the teacher's shape; None if no kind fits.

    Twice the teacher's size: 3x3, stride 2; half: transposed 4x4, stride 2; equal: 1x1; larger
    otherwise: as large as the difference needs, unpadded. Smaller otherwise: None.

    Args:
        student, teacher: shapes [N, C, H, W].
    Source: RepDistiller b84f547 and mdistiller a08d46f, which choose so for FitNet (and AB).
    """
    channels = (student[1], teacher[1])
    high = student[2] - teacher[2]
    wide = student[3] - teacher[3]
    if student[2] == 2 * teacher[2]:
        return nn.Conv2d(*channels, kernel_size=3, stride=2, padding=1)
    if 2 * student[2] == teacher[2]:
        return nn.ConvTranspose2d(*channels, kernel_size=4, stride=2, padding=1)
    if high >= 0:
        return nn.Conv2d(*channels, kernel_size=(1 + high, 1 + wide))
    return None

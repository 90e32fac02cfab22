"""The Distiller contract, shared with mdistiller: `Class(student, teacher, cfg)`, one step in `forward_train`."""

import torch.nn.functional as F
from torch import Tensor, nn


class Distiller(nn.Module):
    """Holds a student and a frozen teacher; a method adds its own modules and its `forward_train`.

    What a method needs from the loop it declares as class attributes; the loop reads them, never the method's name:
        needs_teacher: a trained teacher is loaded and frozen (False: `teacher` is None).
        needs_num_data: the constructor takes a fourth argument, the number of training images.
        needs_negatives: `forward_train` receives `contrastive_index` [N, 1 + K], see `num_negatives`.
    Epoch-valued config keys are declared at registration (`epoch_keys`), so that short schedules scale them.
    """

    needs_teacher = True
    needs_num_data = False
    needs_negatives = False

    def __init__(self, student: nn.Module, teacher: nn.Module | None):
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.terms: dict[str, Tensor] = {}  # single loss terms of the last step, detached, for the log only
        if teacher is not None:
            teacher.requires_grad_(False)
            teacher.eval()

    def train(self, mode: bool = True) -> "Distiller":
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        """Every parameter but the teacher's: nothing that is registered can be forgotten."""
        return [p for name, p in self.named_parameters() if not name.startswith("teacher.")]

    def get_extra_parameters(self) -> int:
        """How many trainable numbers training adds to the student's own."""
        return sum(p.numel() for p in self.get_learnable_parameters()) - sum(p.numel() for p in self.student.parameters())

    def forward_train(self, image: Tensor, target: Tensor, epoch: int = 1, **extras) -> tuple[Tensor, dict[str, Tensor]]:
        """One training step's forward.

        Args:
            image: [N, 3, H, W], normalised.
            target: [N] int64 class numbers.
            epoch: 1-based.
            extras: `index` [N] (position in the training set) and whatever the method declared.
        Returns:
            the student's logits [N, K] and the weighted scalar losses; the trainer minimises their sum.
        """
        raise NotImplementedError

    def forward_test(self, image: Tensor) -> Tensor:
        """The student's logits [N, K]."""
        return self.student(image)[0]

    def forward(self, image: Tensor, target: Tensor | None = None, **extras):
        if self.training:
            return self.forward_train(image=image, target=target, **extras)
        return self.forward_test(image)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy in float32 or wider, also under autocast. logits [N, K], target [N]; mean over the batch."""
    return F.cross_entropy(at_least_float32(logits), target)


def at_least_float32(x: Tensor) -> Tensor:
    """Widens half precision: losses sum over classes and exponentiate, which fp16 and bf16 do not survive."""
    return x.float() if x.dtype.itemsize < 4 else x

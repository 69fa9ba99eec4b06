"""The teacher's decision as the label."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Loss, over_teachers, paired


class HardLabels(Loss):
    """Cross-entropy with the teacher's predicted class (hard distillation; Touvron et al. 2021, arXiv:2012.12877).

    Works on data without labels. Averaged over samples, positions and teachers. A head of one value predicts
    the positive class where it is above 0.
    """

    weighs_samples: ClassVar[bool] = True

    head: str = Field("", description="the head that is compared; default: the only one")
    mask: str = Field("", description="input of shape (N, ...) that is 0 at positions to leave out; default: none are")

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        student_logits, teacher_logits, counts = paired(self, student, teacher, batch)
        entropies = [_entropy(student_logits, logits) for logits in teacher_logits]
        return over_teachers(entropies, [counts] * len(teacher), teacher)


def _entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """(N, classes, ...) -> (N, ...)."""
    if student.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(student, (teacher > 0).to(student.dtype), reduction="none")[:, 0]
    return functional.cross_entropy(student, teacher.argmax(1), reduction="none")

"""The teacher's probabilities as labels."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Loss, over_teachers, paired


class SoftCrossEntropy(Loss):
    """Cross-entropy with the teacher's probabilities as labels (Ba & Caruana 2014, arXiv:1312.6184, section 2).

    -T^2 * sum_j t_j log s_j with t = softmax(teacher/T), s = softmax(student/T), averaged over samples, positions and
    teachers. Its gradient is that of `soft_targets`; its value keeps the teacher's own entropy. Needs no true labels.
    """

    weighs_samples: ClassVar[bool] = True

    head: str = Field("", description="the head that is compared; default: the only one")
    temperature: float = Field(1.0, gt=0, description="softens both sides")
    standardise: bool = Field(
        False,
        description="bring all logits of a sample to mean 0 and deviation 1 first (Sun et al. 2024); from 3 classes on",
    )
    mask: str = Field("", description="input of shape (N, ...) that is 0 at positions to leave out; default: none are")

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        student_logits, teacher_logits, counts = paired(self, student, teacher, batch, standardise=self.standardise)
        entropies = [_entropy(student_logits / self.temperature, logits / self.temperature) for logits in teacher_logits]
        return over_teachers(entropies, [counts] * len(teacher), teacher) * self.temperature**2


def _entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """(N, classes, ...) -> (N, ...)."""
    if student.shape[1] == 1:  # one logit: yes against no
        return functional.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none")[:, 0]
    return -(functional.softmax(teacher, 1) * functional.log_softmax(student, 1)).sum(1)

"""The teacher's softened probabilities where labels do not exclude each other."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Loss, over_teachers, paired


class MultiLabelTargets(Loss):
    """Match the teacher's softened probability of every label (Hinton et al. 2015, arXiv:1503.02531, in Bernoulli form).

    T^2 * sum_j KL(sigmoid(t_j/T) || sigmoid(s_j/T)) over the labels of a head (N, labels, ...), averaged over samples,
    positions and teachers.
    """

    weighs_samples: ClassVar[bool] = True

    head: str = Field("", description="the head that is compared; default: the only one")
    temperature: float = Field(4.0, gt=0, description="softens both sides")
    mask: str = Field("", description="input of shape (N, ...) that is 0 at positions to leave out; default: none are")

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        student_logits, teacher_logits, counts = paired(self, student, teacher, batch, classes=False)
        divergences = [_divergence(logits / self.temperature, student_logits / self.temperature) for logits in teacher_logits]
        return over_teachers(divergences, [counts] * len(teacher), teacher) * self.temperature**2


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """(N, labels, ...) -> (N, ...)."""
    yes = functional.logsigmoid(teacher) - functional.logsigmoid(student)
    no = functional.logsigmoid(-teacher) - functional.logsigmoid(-student)
    return (teacher.sigmoid() * yes + (-teacher).sigmoid() * no).sum(1)

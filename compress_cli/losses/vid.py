"""Information shared between layers."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, matched, over_teachers, unmasked
from compress_cli.losses._projection import channel_axis, comparable, same_size

LEAST_VARIANCE = 1e-5


class Vid(Loss):
    """Keep the information that predicts the teacher's features (VID; Ahn et al. 2019, arXiv:1904.05835).

    Variational information distillation: half of the mean over samples, unmasked positions and channels of
    log v_c + (t - mu(s))^2 / v_c: the teacher's features under a Gaussian whose mean is a trained network of the student's and
    whose variance v_c = softplus(a_c) + 1e-5 is trained for each channel. Summed over layers, averaged over teachers; below 0
    where the student predicts them well. Images of different size are averaged down to the smaller first.
    """

    weighs_samples: ClassVar[bool] = True

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )
    variance: float = Field(5.0, gt=LEAST_VARIANCE, description="initial variance of every channel")
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        return nn.ModuleList(_Gaussian(s, t, self.variance) for s, t in matched(student, teacher, self.layers))

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        pairs = [same_size(*pair) for pair in matched(student, teacher, self.layers, batch, self.mask)]
        terms = [gaussian(s, t) for gaussian, (s, t) in zip(adapter, pairs, strict=True)]
        counts = [unmasked(batch, self.mask, term) for term in terms]
        return over_teachers(terms, counts, teacher)


class _Gaussian(nn.Module):
    """Negative log-likelihood of the teacher's features, given the student's."""

    def __init__(self, student: Tensor, teacher: Tensor, variance: float):
        super().__init__()
        comparable(student, teacher)
        self.axis = channel_axis(student)
        student_width, teacher_width = student.shape[self.axis], teacher.shape[self.axis]

        def layer(width: int) -> nn.Module:
            return nn.Conv2d(width, teacher_width, 1) if student.dim() == 4 else nn.Linear(width, teacher_width)

        self.mean = nn.Sequential(layer(student_width), nn.ReLU(), layer(teacher_width), nn.ReLU(), layer(teacher_width))
        inverse = math.log(math.expm1(variance - LEAST_VARIANCE))  # of softplus
        self.raw = nn.Parameter(torch.full((teacher_width,), inverse))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features of one size -> a value for each position: (N, H, W), (N, T) or (N,)."""
        variance = functional.softplus(self.raw) + LEAST_VARIANCE
        squares = (teacher - self.mean(student)).square().movedim(self.axis, -1)
        likelihood: Tensor = 0.5 * (variance.log() + squares / variance).mean(-1)
        return likelihood

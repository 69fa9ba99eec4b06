"""Information shared between layers."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, average, matched, unmasked
from compress_cli.losses._projection import channel_axis, comparable, same_size

LEAST_VARIANCE = 1e-5


class Vid(Loss):
    """Variational information distillation: keep what tells the teacher's features (Ahn et al. 2019, arXiv:1904.05835).

    Half of the mean over samples, unmasked positions and channels of log v_c + (t - mu(s))^2 / v_c: the teacher's features
    under a Gaussian whose mean is a trained network of the student's and whose variance v_c = softplus(a_c) + 1e-5 is trained
    for each channel. Summed over layers, averaged over teachers; below 0 where the student tells much. Images of different
    size are averaged down to the smaller first.
    """

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )
    variance: float = Field(5.0, gt=LEAST_VARIANCE, description="of every channel, to begin with")
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        return nn.ModuleList(_Gaussian(own, other, self.variance) for own, other in matched(student, teacher, self.layers))

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        pairs = [same_size(*pair) for pair in matched(student, teacher, self.layers, batch, self.mask)]
        terms = [gaussian(own, other) for gaussian, (own, other) in zip(adapter, pairs, strict=True)]
        return torch.stack([average(each, unmasked(batch, self.mask, each)) for each in terms]).sum() / len(teacher)


class _Gaussian(nn.Module):
    """How unlikely the teacher's features are, given the student's."""

    def __init__(self, student: Tensor, teacher: Tensor, variance: float):
        super().__init__()
        comparable(student, teacher)
        self.axis = channel_axis(student)
        width, wanted = student.shape[self.axis], teacher.shape[self.axis]

        def layer(before: int) -> nn.Module:
            return nn.Conv2d(before, wanted, 1) if student.dim() == 4 else nn.Linear(before, wanted)

        self.mean = nn.Sequential(layer(width), nn.ReLU(), layer(wanted), nn.ReLU(), layer(wanted))
        inverse = math.log(math.expm1(variance - LEAST_VARIANCE))  # of softplus
        self.raw = nn.Parameter(torch.full((wanted,), inverse))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features of one size -> a value for each position: (N, H, W), (N, T) or (N,)."""
        variance = functional.softplus(self.raw) + LEAST_VARIANCE
        squares = (teacher - self.mean(student)).square().movedim(self.axis, -1)
        found: Tensor = 0.5 * (variance.log() + squares / variance).mean(-1)
        return found

"""The direction of the token that represents the whole input."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, matched, over_teachers
from compress_cli.losses._projection import first_token, projectors
from compress_cli.losses._relations import unit


class ClsToken(Loss):
    """Match the direction of the first token's state (patient KD; Sun et al. 2019, arXiv:1908.09355).

    The squared distance ||s/|s| - t/|t|||^2 of the states of position 0, each divided by its L2 norm, summed over
    channels and layers, averaged over samples and teachers. Features (N, T, C); a linear projector is trained where widths
    differ. (The authors' code takes the mean over channels and layers: its weight of 100 is 100 / (C * layers) here.)
    `first_token` compares the states as they are.
    """

    version: ClassVar[int] = 2
    weighs_samples: ClassVar[bool] = True

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        return projectors((first_token(s), first_token(t)) for s, t in matched(student, teacher, self.layers))

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        pairs = zip(adapter, matched(student, teacher, self.layers), strict=True)
        terms = [(unit(project(first_token(s))) - unit(first_token(t))).square().sum(1) for project, (s, t) in pairs]
        return over_teachers(terms, [torch.ones_like(term) for term in terms], teacher)

"""Distances and angles between samples."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, matched
from compress_cli.losses._relations import off_diagonal, unit


class Rkd(Loss):
    """Relational distillation: match distances and angles between samples (Park et al. 2019, arXiv:1904.05068).

    Huber losses (delta 1), averaged over pairs and triples of different samples: on distances ||e_i - e_j|| divided by
    their mean in the batch, and on the cosine of the angle at e_j between e_i and e_k. e are flattened features, so
    shapes may differ; summed over layers, averaged over teachers. Memory grows as N^2 times the size of e, and as N^3.
    """

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )
    distance_weight: float = Field(25.0, ge=0, description="factor of the distances")
    angle_weight: float = Field(50.0, ge=0, description="factor of the angles")
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        terms = [self._relation(*pair) for pair in matched(student, teacher, self.layers, batch, self.mask)]
        return torch.stack(terms).sum() / len(teacher)

    def _relation(self, student: Tensor, teacher: Tensor) -> Tensor:
        size = len(student)
        between_s, between_t = _between(student), _between(teacher)
        distance = functional.smooth_l1_loss(_distances(between_s), _distances(between_t), reduction="sum")
        angle = functional.smooth_l1_loss(_angles(between_s), _angles(between_t), reduction="sum")
        pairs = size * (size - 1)
        triples = pairs * (size - 2)
        return self.distance_weight * distance / max(pairs, 1) + self.angle_weight * angle / max(triples, 1)


def _between(features: Tensor) -> Tensor:
    """(N, ...) -> (N, N, size): e_i - e_j at [j, i]."""
    flat = features.flatten(1)
    return flat[None, :] - flat[:, None]


def _distances(between: Tensor) -> Tensor:
    """(N, N), relative to the mean over pairs of different samples."""
    distances: Tensor = torch.linalg.vector_norm(between, dim=2)
    mean = distances.sum() / off_diagonal(len(distances), distances).sum().clamp(min=1)
    return distances / mean.clamp(min=1e-12)


def _angles(between: Tensor) -> Tensor:
    """(N, N, N): cosine of the angle at j between i and k, at [j, i, k]."""
    directions = unit(between)
    return directions @ directions.transpose(1, 2)

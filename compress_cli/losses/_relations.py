"""Relations between the samples of a batch: their distances, and which pairs belong together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Relations(NamedTuple):
    """The pairs of a batch's samples; no sample is paired with itself."""

    distances: Tensor  # (N, N): Euclidean, between the student's flattened features of length 1
    positive: Tensor  # (N, N) bool: the pairs that belong together
    negative: Tensor  # (N, N) bool: the pairs that do not


def by_label(features: Tensor, classes: Tensor) -> Relations:
    """Samples of one class belong together: features (N, ...), class numbers (N,)."""
    return _relations(features, classes[:, None] == classes[None, :])


def by_teacher(features: Tensor, teacher: Tensor, neighbours: int) -> Relations:
    """A sample (row) belongs with its `neighbours` most similar samples by the teacher's cosine: features (N, ...) each."""
    return _relations(features, nearest(teacher, neighbours))


def _relations(features: Tensor, positive: Tensor) -> Relations:
    different = ~torch.eye(len(features), dtype=torch.bool, device=features.device)
    return Relations(between(features), positive & different, ~positive & different)


def off_diagonal(size: int, like: Tensor) -> Tensor:
    """(size, size) of ones, zero on the diagonal: the pairs of two different samples."""
    return 1 - torch.eye(size, dtype=like.dtype, device=like.device)


def unit(vectors: Tensor) -> Tensor:
    """(..., size) -> the same with length 1; a vector of length 0 stays 0 and takes no gradient, which would be infinite."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    units: Tensor = vectors / length.where(length > 0, torch.inf)
    return units


def between(features: Tensor) -> Tensor:
    """(N, ...) -> (N, N): Euclidean distances between flattened features of length 1."""
    units = unit(features.flatten(1))
    distances: Tensor = torch.linalg.vector_norm(units[:, None] - units[None, :], dim=2)  # no NaN gradient at distance 0
    return distances


def nearest(features: Tensor, count: int) -> Tensor:
    """(N, ...) -> (N, N) bool: for each sample (row) the `count` most similar others, by the cosine of flattened features."""
    units = unit(features.flatten(1))
    similarity = (units @ units.T).fill_diagonal_(-torch.inf)
    neighbours = similarity.topk(min(count, len(units) - 1), dim=1).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, neighbours, True)

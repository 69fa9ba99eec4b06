"""Samples of a batch among themselves: how far apart they are, and which are near."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def off_diagonal(size: int, like: Tensor) -> Tensor:
    """(size, size) of ones, zero on the diagonal: the pairs of two different samples."""
    return 1 - torch.eye(size, dtype=like.dtype, device=like.device)


def between(features: Tensor) -> Tensor:
    """(N, ...) -> (N, N): Euclidean distances between flattened features of length 1."""
    unit = functional.normalize(features.flatten(1), dim=1)
    found: Tensor = torch.linalg.vector_norm(unit[:, None] - unit[None, :], dim=2)  # no NaN gradient where two coincide
    return found


def nearest(features: Tensor, count: int) -> Tensor:
    """(N, ...) -> (N, N) bool: for each sample (row) the `count` most similar others, by the cosine of flattened features."""
    unit = functional.normalize(features.flatten(1), dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    found = similarity.topk(min(count, len(unit) - 1), dim=1).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, found, True)

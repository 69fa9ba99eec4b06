"""Samples of a batch among themselves: how far apart they are, and which are near."""

from __future__ import annotations

import torch
from torch import Tensor


def off_diagonal(size: int, like: Tensor) -> Tensor:
    """(size, size) of ones, zero on the diagonal: the pairs of two different samples."""
    return 1 - torch.eye(size, dtype=like.dtype, device=like.device)


def unit(vectors: Tensor) -> Tensor:
    """(..., size) -> the same with length 1; what has no length stays 0 and takes no gradient, which would be endless."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    found: Tensor = vectors / length.where(length > 0, torch.inf)
    return found


def between(features: Tensor) -> Tensor:
    """(N, ...) -> (N, N): Euclidean distances between flattened features of length 1."""
    each = unit(features.flatten(1))
    found: Tensor = torch.linalg.vector_norm(each[:, None] - each[None, :], dim=2)  # no NaN gradient where two coincide
    return found


def nearest(features: Tensor, count: int) -> Tensor:
    """(N, ...) -> (N, N) bool: for each sample (row) the `count` most similar others, by the cosine of flattened features."""
    each = unit(features.flatten(1))
    similarity = (each @ each.T).fill_diagonal_(-torch.inf)
    found = similarity.topk(min(count, len(each) - 1), dim=1).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, found, True)

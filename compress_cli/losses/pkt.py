"""The probability that samples are neighbours."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, matched
from compress_cli.losses._relations import off_diagonal, unit


class Pkt(Loss):
    """Match how likely samples pick each other as neighbours (PKT; Passalis & Tefas 2018, arXiv:1803.10837).

    KL(t || s), averaged over samples, of the probabilities p(j|i) = K_ij / sum over k != i of K_ik with the cosine kernel
    K = (cosine + 1) / 2; summed over layers, averaged over teachers. Shapes may differ. (The usual weight of 30000 goes with
    the mean over all N^2 pairs; here it is 30000 / N.)
    """

    layers: Layers = Field(
        min_length=1, description="what is compared: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        pairs = matched(student, teacher, self.layers, batch, self.mask)
        probabilities = [(_neighbours(s), _neighbours(t)) for s, t in pairs]
        terms = [(t * (t.clamp(min=1e-7).log() - s.clamp(min=1e-7).log())).sum(1).mean() for s, t in probabilities]
        return torch.stack(terms).sum() / len(teacher)


def _neighbours(features: Tensor) -> Tensor:
    """(N, ...) -> (N, N), rows sum to 1, zero on the diagonal."""
    units = unit(features.flatten(1))
    kernel = (units @ units.T + 1) / 2 * off_diagonal(len(units), units)
    return kernel / kernel.sum(1, keepdim=True).clamp(min=1e-7)

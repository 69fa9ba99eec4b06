"""Neighbours near, strangers a margin away."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, relations


class Contrastive(Loss):
    """Draw together what belongs together and push the rest a margin apart (Hadsell, Chopra & LeCun 2006, CVPR).

    d^2 for pairs that belong together, max(0, margin - d)^2 for pairs that do not, each averaged over its pairs, and half
    of their sum; d are the student's own Euclidean distances of flattened features of length 1. Summed over layers, and
    averaged over teachers where they say what belongs together.
    """

    layers: Layers = Field(
        min_length=1, description="the student's layers, and the teacher's where it says what belongs together"
    )
    by: Literal["label", "teacher"] = Field(
        "teacher", description="what belongs together: one label, or the teacher's neighbours"
    )
    neighbours: int = Field(1, ge=1, description="most similar samples (cosine) that belong with a sample, by the teacher")
    negatives: Literal["hardest", "all"] = Field("hardest", description="the nearest sample that does not belong, or every one")
    margin: float = Field(1.0, gt=0, description="distance past which a pair that does not belong is left alone")
    target: str = Field("", description="the target that holds the labels; default: the only one")
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def teacher_layers(self) -> tuple[str, ...]:
        return super().teacher_layers() if self.by == "teacher" else ()

    def reads_labels(self) -> bool:
        return self.by == "label"

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        rounds = len(teacher) if self.by == "teacher" else 1
        found = relations(student, teacher, batch, self.layers, self.by, self.neighbours, self.target, self.mask)
        return torch.stack([self._pairs_of(*each) for each in found]).sum() / rounds

    def _pairs_of(self, distances: Tensor, together: Tensor, apart: Tensor) -> Tensor:
        """Distances (N, N) and who belongs with whom -> ()."""
        if self.negatives == "hardest":
            hardest = distances.masked_fill(~apart, torch.inf).argmin(1, keepdim=True)
            apart = apart & torch.zeros_like(apart).scatter_(1, hardest, True)
        near = (distances.square() * together).sum() / together.sum().clamp(min=1)
        far = (functional.relu(self.margin - distances).square() * apart).sum() / apart.sum().clamp(min=1)
        return (near + far) / 2

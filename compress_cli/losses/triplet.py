"""Neighbours nearer than strangers."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, relations


class Triplet(Loss):
    """Keep a sample nearer to those it belongs with than to others, by a margin (Schroff et al. 2015, arXiv:1503.03832).

    max(0, margin + d(anchor, positive) - d(anchor, negative)) on the student's own Euclidean distances of flattened
    features of length 1, averaged over triplets; 0 where the batch has none. Summed over layers, and averaged over
    teachers where they say what belongs together.
    """

    layers: Layers = Field(
        min_length=1, description="the student's layers, and the teacher's where it says what belongs together"
    )
    by: Literal["label", "teacher"] = Field(
        "teacher", description="what belongs together: one label, or the teacher's neighbours"
    )
    neighbours: int = Field(1, ge=1, description="most similar samples (cosine) that belong with a sample, by the teacher")
    negatives: Literal["hardest", "all"] = Field("hardest", description="the nearest sample that does not belong, or every one")
    margin: float = Field(1.0, gt=0, description="between the distances")
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
        return torch.stack([self._triplets(*each) for each in found]).sum() / rounds

    def _triplets(self, distances: Tensor, together: Tensor, apart: Tensor) -> Tensor:
        """Distances (N, N) and who belongs with whom -> ()."""
        if self.negatives == "hardest":
            hardest = distances.masked_fill(~apart, torch.inf).min(1, keepdim=True)
            violations = self.margin + distances - distances.gather(1, hardest.indices)  # (N, N): anchor, positive
            valid = together & apart.any(1, keepdim=True)
        else:
            violations = self.margin + distances[:, :, None] - distances[:, None, :]  # (N, N, N): anchor, positive, negative
            valid = together[:, :, None] & apart[:, None, :]
        return (functional.relu(violations) * valid).sum() / valid.sum().clamp(min=1)

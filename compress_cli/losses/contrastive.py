"""Positive pairs near, negative ones a margin away."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, labels, matched, visible
from compress_cli.losses._relations import Relations, by_label, by_teacher


class Contrastive(Loss):
    """Pull similar samples together and push the others at least a margin away (Hadsell, Chopra & LeCun 2006, CVPR).

    Half the sum of d^2 over positive pairs and max(0, margin - d)^2 over negative pairs, each averaged over its pairs; d
    are the student's own Euclidean distances of flattened features of length 1. Summed over layers, and averaged over
    teachers where their neighbours belong together.
    """

    layers: Layers = Field(
        min_length=1, description="the student's layers, and the teacher's where its neighbours belong together"
    )
    by: Literal["label", "teacher"] = Field(
        "teacher", description="what belongs together: samples of one class, or the teacher's neighbours"
    )
    neighbours: int = Field(1, ge=1, description="most similar samples (cosine) that belong with a sample, by the teacher")
    negatives: Literal["hardest", "all"] = Field("hardest", description="the nearest sample that does not belong, or every one")
    margin: float = Field(1.0, gt=0, description="distance beyond which a negative pair costs nothing")
    target: str = Field("", description="the target that holds the labels; default: the only one")
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def teacher_layers(self) -> tuple[str, ...]:
        return super().teacher_layers() if self.by == "teacher" else ()

    def reads_labels(self) -> bool:
        return self.by == "label"

    def reads_teacher(self) -> bool:
        return self.by == "teacher"

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        if self.by == "label":
            classes = labels(batch, self.target, batch.index)
            features = [visible(student.features[pair.student], batch, self.mask) for pair in self.layers]
            return torch.stack([self._pairs_of(by_label(layer, classes)) for layer in features]).sum()
        pairs = matched(student, teacher, self.layers, batch, self.mask)
        return torch.stack([self._pairs_of(by_teacher(s, t, self.neighbours)) for s, t in pairs]).sum() / len(teacher)

    def _pairs_of(self, relations: Relations) -> Tensor:
        """Half of the mean over positive pairs and the mean over negative ones, shape ()."""
        distances, positive, negative = relations
        if self.negatives == "hardest":
            hardest = distances.masked_fill(~negative, torch.inf).argmin(1, keepdim=True)
            negative = negative & torch.zeros_like(negative).scatter_(1, hardest, True)
        near = (distances.square() * positive).sum() / positive.sum().clamp(min=1)
        far = (functional.relu(self.margin - distances).square() * negative).sum() / negative.sum().clamp(min=1)
        return (near + far) / 2

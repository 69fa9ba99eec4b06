"""Positive pairs nearer than negative ones."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, labels, matched, visible
from compress_cli.losses._relations import Relations, by_label, by_teacher


class Triplet(Loss):
    """Keep a sample nearer to those it belongs with than to others, by a margin (Schroff et al. 2015, arXiv:1503.03832).

    max(0, margin + d(anchor, positive) - d(anchor, negative)) on the student's own Euclidean distances of flattened
    features of length 1, averaged over triplets; 0 where the batch has none. Summed over layers, and averaged over
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
    margin: float = Field(1.0, gt=0, description="between the distances")
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
            return torch.stack([self._triplets(by_label(layer, classes)) for layer in features]).sum()
        pairs = matched(student, teacher, self.layers, batch, self.mask)
        return torch.stack([self._triplets(by_teacher(s, t, self.neighbours)) for s, t in pairs]).sum() / len(teacher)

    def _triplets(self, relations: Relations) -> Tensor:
        """The mean over all triplets that count, shape ()."""
        distances, positive, negative = relations
        if self.negatives == "hardest":
            hardest = distances.masked_fill(~negative, torch.inf).min(1, keepdim=True)
            violations = self.margin + distances - distances.gather(1, hardest.indices)  # (N, N): anchor, positive
            valid = positive & negative.any(1, keepdim=True)
        else:
            violations = self.margin + distances[:, :, None] - distances[:, None, :]  # (N, N, N): anchor, positive, negative
            valid = positive[:, :, None] & negative[:, None, :]
        return (functional.relu(violations) * valid).sum() / valid.sum().clamp(min=1)

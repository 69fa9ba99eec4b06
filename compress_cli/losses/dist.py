"""Correlation instead of equality."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.errors import RecipeError
from compress_cli.losses import Loss, paired, several_classes


class Dist(Loss):
    """Keep the proportions of the teacher's probabilities, not their values (DIST; Huang et al. 2022, arXiv:2205.10536).

    T^2 * (beta * inter + gamma * intra): 1 - Pearson's correlation of softmax(s/T) and softmax(t/T), over the classes of
    one sample (inter, averaged over samples and positions) and over the samples of one class (intra, averaged over
    classes); averaged over teachers. Of two classes the correlation between classes is always 1 or -1 and has no gradient.
    """

    head: str = Field("", description="the head that is compared; default: the only one")
    beta: float = Field(2.0, ge=0, description="factor of the relation between classes")
    gamma: float = Field(2.0, ge=0, description="factor of the relation within a class")
    temperature: float = Field(4.0, gt=0, description="softens both sides; the paper's 4 is for CIFAR-100, 1 for ImageNet")
    standardise: bool = Field(
        False,
        description="bring all logits of a sample to mean 0 and deviation 1 first (Sun et al. 2024); from 3 classes on",
    )
    mask: str = Field("", description="input of shape (N, ...) that is 0 at positions to leave out; default: none are")

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        student_logits, teacher_logits, counts = paired(self, student, teacher, batch, standardise=self.standardise)
        p, *others = (
            functional.softmax(several_classes(logits, self.type) / self.temperature, 1)
            for logits in (student_logits, *teacher_logits)
        )
        if p.shape[1] == 2 and not self.gamma:
            raise RecipeError("the loss 'dist' with gamma: 0 needs three classes or more: of two, nothing could be learnt")
        terms = [self._relation(p, q, counts.flatten()[:, None]) for q in others]
        return torch.stack(terms).mean() * self.temperature**2

    def _relation(self, student: Tensor, teacher: Tensor, counts: Tensor) -> Tensor:
        """Probabilities (positions, classes), ones and zeros (positions, 1) -> ()."""
        total = counts.sum().clamp(min=1)
        s, t = (shares - shares.mean(1, keepdim=True) for shares in (student, teacher))
        inter = ((1 - functional.cosine_similarity(s, t, dim=1)) * counts[:, 0]).sum() / total
        s, t = ((shares - (shares * counts).sum(0) / total) * counts for shares in (student, teacher))
        intra = (1 - functional.cosine_similarity(s, t, dim=0)).mean()
        return self.beta * inter + self.gamma * intra

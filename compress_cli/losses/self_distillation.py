"""A network that teaches itself, from its last layer to its earlier ones."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.batch import Batch, Outputs
from compress_cli.losses import Layer, Loss, chosen, several_classes
from compress_cli.settings import Many


class SelfDistillation(Loss):
    """Put small classifiers behind early layers and teach them what the last one says (Zhang et al. 2019, arXiv:1905.08094).

    CE(last, label) + sum over exits of (1 - alpha) * CE(exit, label) + alpha * T^2 * KL(softmax(last/T) || softmax(exit/T)),
    with no gradient to the last classifier from the exits' divergence, averaged over samples. The exits (3 x 3 convolution,
    ReLU, mean over positions, linear) are trained along and dropped at the end: the network stays as it is. The paper's
    third term, on features, is left out. Needs no other teacher: it is a loss for `train` too.
    """

    taught: ClassVar[bool] = False

    exits: Many[Layer] = Field(min_length=1, description="layers that get a classifier: names, or positions such as 2")
    alpha: float = Field(0.3, ge=0, le=1, description="weight of what the last classifier says against the label")
    temperature: float = Field(3.0, gt=0, description="softens both sides")
    head: str = Field("", description="the head that teaches; default: the only one")
    target: str = Field("", description="the target that holds the labels; default: the only one")

    def student_layers(self) -> tuple[str, ...]:
        return self.exits

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        classes = chosen(student.heads, self.head, "head").shape[1]
        return nn.ModuleList(_Exit(student.features[layer], classes) for layer in self.exits)

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        last = several_classes(chosen(student.heads, self.head, "head"), self.type)
        labels = chosen(batch.targets, self.target, "target").long().flatten()
        log_p = functional.log_softmax(last.detach() / self.temperature, 1)
        terms = [functional.cross_entropy(last, labels)]
        for place, layer in enumerate(self.exits):
            early = adapter[place](student.features[layer])
            log_q = functional.log_softmax(early / self.temperature, 1)
            divergence = functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * self.temperature**2
            terms.append((1 - self.alpha) * functional.cross_entropy(early, labels) + self.alpha * divergence)
        return torch.stack(terms).sum()


class _Exit(nn.Module):
    def __init__(self, features: Tensor, classes: int):
        super().__init__()
        self.images = features.dim() == 4
        width = features.shape[1 if self.images else -1]
        self.conv = nn.Conv2d(width, width, 3, padding=1) if self.images else nn.Linear(width, width)
        self.fc = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W), (N, T, C) or (N, C) -> (N, classes)."""
        x = functional.relu(self.conv(features))
        pooled = x.mean((2, 3)) if self.images else x.flatten(1, -2).mean(1) if x.dim() > 2 else x
        logits: Tensor = self.fc(pooled)
        return logits

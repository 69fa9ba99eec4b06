"""A network that teaches itself, from its last layer to its earlier ones."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.errors import RecipeError
from compress_cli.losses import Layer, Loss, label_entropy, labels, logits_of, several_classes, unmasked, visible
from compress_cli.losses._projection import channel_axis, per_sample
from compress_cli.settings import Many


class SelfDistillation(Loss):
    """Add classifiers to early layers and teach them the last one's probabilities (Zhang et al. 2019, arXiv:1905.08094).

    CE(last, label) + sum over exits of (1 - alpha) * CE(exit, label) + alpha * T^2 * KL(softmax(last/T) || softmax(exit/T)),
    with no gradient to the last classifier from the exits' divergence, averaged over samples. The exits (3 x 3 convolution,
    ReLU, mean over unmasked positions, linear) are trained with the network and dropped at the end. The
    paper's third term, on features, is left out. Needs no other teacher: it is a loss for `train` too. A label of -100 is
    left out.
    """

    needs_teacher: ClassVar[bool] = False

    exits: Many[Layer] = Field(min_length=1, description="layers that get a classifier: names, or positions such as 2")
    alpha: float = Field(0.3, ge=0, le=1, description="weight of the last classifier's probabilities against the label")
    temperature: float = Field(3.0, gt=0, description="softens both sides")
    head: str = Field("", description="the head that teaches; default: the only one")
    target: str = Field("", description="the target that holds the labels; default: the only one")
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def student_layers(self) -> tuple[str, ...]:
        return self.exits

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        classes = self._last(student).shape[1]
        return nn.ModuleList(_Exit(student.features[layer], classes) for layer in self.exits)

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        last = self._last(student)
        classes = labels(batch, self.target, last[:, 0])
        log_p = functional.log_softmax(last.detach() / self.temperature, 1)
        terms = [label_entropy(last, classes)]
        for exit_, layer in zip(adapter, self.exits, strict=True):
            early = exit_(student.features[layer], batch, self.mask)
            log_q = functional.log_softmax(early / self.temperature, 1)
            divergence = functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * self.temperature**2
            terms.append((1 - self.alpha) * label_entropy(early, classes) + self.alpha * divergence)
        return torch.stack(terms).sum()

    def _last(self, student: Outputs) -> Tensor:
        logits = logits_of(student, self.head, self.type)
        if logits.dim() > 2:
            raise RecipeError(
                f"self_distillation needs a head (N, classes), one answer a sample; this one is {per_sample(logits)}"
            )
        return several_classes(logits, self.type)


class _Exit(nn.Module):
    def __init__(self, features: Tensor, classes: int):
        super().__init__()
        self.axis = channel_axis(features)
        width = features.shape[self.axis]
        self.conv = nn.Conv2d(width, width, 3, padding=1) if features.dim() == 4 else nn.Linear(width, width)
        self.fc = nn.Linear(width, classes)

    def forward(self, features: Tensor, batch: Batch, mask: str) -> Tensor:
        """(N, C, H, W), (N, T, C) or (N, C) -> (N, classes)."""
        x = functional.relu(self.conv(visible(features, batch, mask))).movedim(self.axis, -1)
        if x.dim() > 2:
            counts = unmasked(batch, mask, x[..., 0]).flatten(1)[:, :, None]  # (N, positions, 1)
            x = (x.flatten(1, -2) * counts).sum(1) / counts.sum(1).clamp(min=1)
        logits: Tensor = self.fc(x)
        return logits

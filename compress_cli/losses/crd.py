"""Contrast with every sample seen so far."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses import Layers, Loss, labels, matched

UNKNOWN = torch.iinfo(torch.int64).max  # sorts behind every id


class Crd(Loss):
    """Tell the other network's view of a sample from its views of other samples (CRD; Tian et al. 2020, arXiv:1910.10699).

    Both networks' flattened features are mapped to length 1 in `size` dimensions by trained linear maps. For student f and
    remembered teacher g: h = u / (u + negatives/M), u = exp(f'g / temperature) / Z, M samples, and the loss is
    -log h(own) - sum over negatives of log(1 - h), plus the same with the sides changed, averaged over samples. Z is M
    times the mean of exp in the first batch (Wu et al. 2018, arXiv:1805.01978). Negatives are drawn by torch's generator.
    Afterwards the memory of the batch moves to momentum * old + (1 - momentum) * new, of length 1. Averaged over teachers.
    """

    layers: Layers = Field(
        min_length=1, max_length=1, description="the embedding: a layer name, or {student: ..., teacher: ...}"
    )
    size: int = Field(128, ge=1, description="dimensions of the common space")
    temperature: float = Field(0.07, gt=0, description="lower looks closer at near samples")
    momentum: float = Field(0.5, ge=0, lt=1, description="share of the memory that stays")
    negatives: int = Field(16384, ge=1, description="samples contrasted with each")
    other: Literal["class", "sample"] = Field("class", description="negatives are of another class, or any other sample")
    target: str = Field("", description="the target that holds the labels, for other: class; default: the only one")
    mask: str = Field(
        "", description="input of shape (N, T) or (N, H, W) that is 0 at positions to leave out; default: none are"
    )

    def reads_labels(self) -> bool:
        return self.other == "class"

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        pairs = matched(student, teacher, self.layers)
        return nn.ModuleList(
            _Contrast(own.flatten(1).shape[1], other.flatten(1).shape[1], self.size, samples) for own, other in pairs
        )

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        classes = labels(batch, self.target, batch.index) if self.other == "class" else batch.index
        pairs = zip(adapter, matched(student, teacher, self.layers, batch, self.mask), strict=True)
        terms = [self._contrast(memory, own, other, batch.index, classes) for memory, (own, other) in pairs]
        return torch.stack(terms).sum() / len(teacher)

    def _contrast(self, contrast: nn.Module, student: Tensor, teacher: Tensor, index: Tensor, classes: Tensor) -> Tensor:
        assert isinstance(contrast, _Contrast)
        f, g = contrast(student, teacher)  # (N, size) each
        rows = contrast.rows_of(index)
        drawn = torch.randint(len(contrast.student), (len(rows), self.negatives), device=rows.device)
        strange = drawn != rows[:, None]
        if self.other == "class":
            strange &= contrast.labels[drawn] != classes[:, None]
        terms = [
            self._discriminate(own, memory.clone(), normaliser, rows, drawn, strange)  # the memory changes before backward
            for own, memory, normaliser in ((f, contrast.teacher, contrast.log_z[0]), (g, contrast.student, contrast.log_z[1]))
        ]
        contrast.remember(rows, f.detach(), g.detach(), classes, self.momentum)
        return terms[0] + terms[1]

    def _discriminate(self, own: Tensor, memory: Tensor, log_z: Tensor, rows: Tensor, drawn: Tensor, strange: Tensor) -> Tensor:
        """Noise-contrastive estimation of (N, size) against a memory (M, size) -> ()."""
        logits = own @ memory.T / self.temperature  # (N, M): cheaper than gathering (N, negatives, size)
        positive, negative = logits.gather(1, rows[:, None])[:, 0], logits.gather(1, drawn)
        with torch.no_grad():
            seen = torch.cat([positive[:, None], negative], 1)
            log_mean = seen.flatten().logsumexp(0) - math.log(seen.numel())  # exp of 1/temperature may be past float32
            log_z.copy_(torch.where(log_z.isnan(), log_mean + math.log(len(memory)), log_z))
        noise = log_z + math.log(self.negatives / len(memory))
        told = functional.softplus(negative - noise) * strange  # -log(1 - h)
        others = told.sum(1) * self.negatives / strange.sum(1).clamp(min=1)  # as many negatives for every sample
        return (functional.softplus(noise - positive) + others).mean()


class _Contrast(nn.Module):
    """The two maps, and what they last made of every sample."""

    student: Tensor
    teacher: Tensor
    log_z: Tensor
    labels: Tensor
    ids: Tensor
    rows: Tensor
    used: Tensor

    def __init__(self, student: int, teacher: int, size: int, samples: int):
        super().__init__()
        self.map_student, self.map_teacher = nn.Linear(student, size), nn.Linear(teacher, size)
        for name in ("student", "teacher"):
            self.register_buffer(name, functional.normalize(torch.randn(samples, size), dim=1))
        self.register_buffer("log_z", torch.full((2,), torch.nan))  # not known before the first batch
        self.register_buffer("labels", torch.full((samples,), -1))
        self.register_buffer("ids", torch.full((samples,), UNKNOWN))  # ascending
        self.register_buffer("rows", torch.zeros(samples, dtype=torch.int64))  # row of each of `ids`
        self.register_buffer("used", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        f, g = self.map_student(student.flatten(1)), self.map_teacher(teacher.flatten(1))
        return functional.normalize(f, dim=1), functional.normalize(g, dim=1)

    @torch.no_grad()
    def rows_of(self, index: Tensor) -> Tensor:
        """(N,) sample ids -> (N,) rows of the memory; an id not met before takes the next free row.

        Without a look at the values, which would wait for the device. Past the last row, rows are shared.
        """
        places = torch.searchsorted(self.ids, index).clamp(max=len(self.ids) - 1)
        again = (index[:, None] == index[None, :]).tril(-1).any(1)  # twice in this batch
        new = (self.ids[places] != index) & ~again
        fresh = (self.used + new.cumsum(0) - 1) % len(self.ids)
        ids, order = torch.cat([self.ids, torch.where(new, index, UNKNOWN)]).sort(stable=True)
        rows = torch.cat([self.rows, fresh])[order]
        self.ids.copy_(ids[: len(self.ids)])
        self.rows.copy_(rows[: len(self.rows)])
        self.used += new.sum()
        return self.rows[torch.searchsorted(self.ids, index).clamp(max=len(self.ids) - 1)]

    @torch.no_grad()
    def remember(self, rows: Tensor, student: Tensor, teacher: Tensor, labels: Tensor, momentum: float) -> None:
        """Move the rows of a batch towards what its samples are now, (N, size) each."""
        for memory, now in ((self.student, student), (self.teacher, teacher)):
            memory[rows] = functional.normalize(momentum * memory[rows] + (1 - momentum) * now, dim=1)
        self.labels[rows] = labels

"""Contrast with a memory of all samples."""

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
    """Contrast a sample's features in both networks with those of other samples (CRD; Tian et al. 2020, arXiv:1910.10699).

    Both networks' flattened features are mapped to length 1 in `size` dimensions by trained linear maps. For student f and
    remembered teacher g: h = u / (u + negatives/M), u = exp(f'g / temperature) / Z, M samples, and the loss is
    -log h(same sample) - sum over negatives of log(1 - h), plus the same with the sides changed, averaged over samples. Z is M
    times the mean of exp in the first batch (Wu et al. 2018, arXiv:1805.01978). Negatives are drawn by torch's generator.
    Afterwards the memory of the batch moves to momentum * old + (1 - momentum) * new, of length 1. Averaged over teachers.
    """

    layers: Layers = Field(
        min_length=1, max_length=1, description="the embedding: a layer name, or {student: ..., teacher: ...}"
    )
    size: int = Field(128, ge=1, description="dimensions of the common space")
    temperature: float = Field(0.07, gt=0, description="lower gives more weight to the nearest negatives")
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
        return nn.ModuleList(_Contrast(s.flatten(1).shape[1], t.flatten(1).shape[1], self.size, samples) for s, t in pairs)

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        classes = labels(batch, self.target, batch.index) if self.other == "class" else batch.index
        pairs = zip(adapter, matched(student, teacher, self.layers, batch, self.mask), strict=True)
        terms = [self._contrast(contrast, s, t, batch.index, classes) for contrast, (s, t) in pairs]
        return torch.stack(terms).sum() / len(teacher)

    def _contrast(self, contrast: nn.Module, student: Tensor, teacher: Tensor, index: Tensor, classes: Tensor) -> Tensor:
        assert isinstance(contrast, _Contrast)
        f, g = contrast(student, teacher)  # (N, size) each
        rows = contrast.rows_of(index)
        drawn = torch.randint(len(contrast.student), (len(rows), self.negatives), device=rows.device)
        negative = drawn != rows[:, None]
        if self.other == "class":
            negative &= contrast.labels[drawn] != classes[:, None]
        terms = [
            # the memory changes before backward
            self._discriminate(embedding, memory.clone(), log_z, rows, drawn, negative)
            for embedding, memory, log_z in ((f, contrast.teacher, contrast.log_z[0]), (g, contrast.student, contrast.log_z[1]))
        ]
        contrast.remember(rows, f.detach(), g.detach(), classes, self.momentum)
        return terms[0] + terms[1]

    def _discriminate(
        self, embedding: Tensor, memory: Tensor, log_z: Tensor, rows: Tensor, drawn: Tensor, negative: Tensor
    ) -> Tensor:
        """Noise-contrastive estimation of (N, size) against a memory (M, size) -> ()."""
        logits = embedding @ memory.T / self.temperature  # (N, M): cheaper than gathering (N, negatives, size)
        same, others = logits.gather(1, rows[:, None])[:, 0], logits.gather(1, drawn)
        with torch.no_grad():
            pairs = torch.cat([same[:, None], others], 1)
            log_mean = pairs.flatten().logsumexp(0) - math.log(pairs.numel())  # exp of 1/temperature may be past float32
            log_z.copy_(torch.where(log_z.isnan(), log_mean + math.log(len(memory)), log_z))
        noise = log_z + math.log(self.negatives / len(memory))
        from_noise = functional.softplus(others - noise) * negative  # -log(1 - h)
        noises = from_noise.sum(1) * self.negatives / negative.sum(1).clamp(min=1)  # as many negatives for every sample
        return (functional.softplus(noise - same) + noises).mean()


class _Contrast(nn.Module):
    """The two maps, and a memory of their latest embedding of every sample."""

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
        """(N,) sample ids -> (N,) rows of the memory; a new id takes the next free row.

        It never reads a value, which would wait for the device. Past the last row, rows are shared.
        """
        positions = torch.searchsorted(self.ids, index).clamp(max=len(self.ids) - 1)
        repeated = (index[:, None] == index[None, :]).tril(-1).any(1)  # twice in this batch
        new = (self.ids[positions] != index) & ~repeated
        fresh = (self.used + new.cumsum(0) - 1) % len(self.ids)
        ids, order = torch.cat([self.ids, torch.where(new, index, UNKNOWN)]).sort(stable=True)
        rows = torch.cat([self.rows, fresh])[order]
        self.ids.copy_(ids[: len(self.ids)])
        self.rows.copy_(rows[: len(self.rows)])
        self.used += new.sum()
        return self.rows[torch.searchsorted(self.ids, index).clamp(max=len(self.ids) - 1)]

    @torch.no_grad()
    def remember(self, rows: Tensor, student: Tensor, teacher: Tensor, labels: Tensor, momentum: float) -> None:
        """Move the rows of a batch towards its samples' embeddings, (N, size) each."""
        for memory, embedding in ((self.student, student), (self.teacher, teacher)):
            memory[rows] = functional.normalize(momentum * memory[rows] + (1 - momentum) * embedding, dim=1)
        self.labels[rows] = labels

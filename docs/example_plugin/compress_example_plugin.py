"""A dataset, a model and a loss of another package; entry points in pyproject.toml give them their names."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.data.datasets import Dataset, Split, SplitName
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.losses import Loss
from compress_cli.networks.models import Model


class Blobs(Dataset):
    """Two clouds of points in four dimensions, made by a seeded function."""

    samples: int = Field(200, ge=2, description="samples of each split")

    def signature(self) -> Signature:
        return Signature(inputs={"point": Input(shape=(4,))}, heads={"side": Head(shape=(2,), classes=("left", "right"))})

    def split(self, name: SplitName) -> Split:
        first = {"train": 0, "val": 1, "test": 2}[name] * self.samples
        index = np.arange(first, first + self.samples)
        label = index % 2
        noise = np.random.default_rng(first).normal(size=(self.samples, 4)).astype(np.float32)
        return Split({"point": noise + 3 * label[:, None].astype(np.float32)}, {"label": label}, index)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"blobs {self.samples}".encode()).hexdigest()


class Perceptron(Model):
    """One hidden layer."""

    hidden: int = Field(8, ge=1, description="width of the hidden layer")

    def build(self, signature: Signature) -> nn.Module:
        return nn.Sequential(nn.Linear(4, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 2))


class Margin(Loss):
    """Multi-class hinge loss (Crammer & Singer 2001, JMLR 2:265)."""

    needs_teacher: ClassVar[bool] = False  # it learns from labels alone

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        (logits,) = student.heads.values()
        return functional.multi_margin_loss(logits, batch.targets["label"])

"""Augmentations of a whole batch at once, a function of the numbers drawn for each sample."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from compress_cli.plugin import Plugin


class Augmentation(Plugin):
    """A random change of images that keeps their label."""

    draws: ClassVar[int]
    """Uniform numbers it needs per sample."""

    @abstractmethod
    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """images (N, C, H, W) in the raw range; draws (N, self.draws) in [0, 1), a function of (seed, epoch, sample id)."""

"""Mirror images."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compress_cli.training.augmentations import Augmentation


class Flip(Augmentation):
    """Mirror an image left to right, and its masks with it."""

    draws: ClassVar[int] = 1
    geometric: ClassVar[bool] = True
    probability: float = Field(0.5, ge=0, le=1, description="share of images that are mirrored")

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        mirrored = (draws[:, 0] < self.probability)[:, None, None, None]
        return torch.where(mirrored, images.flip(3), images)

"""Holes in images."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compress_cli.training.augmentations import Augmentation


class Cutout(Augmentation):
    """Set a square to zero, its centre anywhere in the image (DeVries & Taylor 2017, arXiv:1708.04552).

    Targets stay as they are, masks included: what the square hides is still to be predicted.
    """

    draws: ClassVar[int] = 2
    size: int = Field(8, ge=1, description="side of the square in pixels; it may reach beyond the image's edge")

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        _, _, height, width = images.shape
        top = (draws[:, :1] * height).long() - self.size // 2  # (N, 1)
        left = (draws[:, 1:] * width).long() - self.size // 2
        rows = torch.arange(height, device=images.device)  # (H,)
        columns = torch.arange(width, device=images.device)
        inside_rows = (rows >= top) & (rows < top + self.size)  # (N, H)
        inside_columns = (columns >= left) & (columns < left + self.size)
        hole = inside_rows[:, :, None] & inside_columns[:, None, :]  # (N, H, W)
        return images.masked_fill(hole[:, None], 0)

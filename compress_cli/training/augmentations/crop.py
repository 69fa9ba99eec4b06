"""Crops out of padded images."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from compress_cli.training.augmentations import Augmentation


class Crop(Augmentation):
    """Pad on all sides with zeros and cut out the old size anywhere: a shift by up to `padding` pixels.

    (He et al. 2016, arXiv:1512.03385, section 4.2: 4 pixels at 32 x 32.)
    """

    draws: ClassVar[int] = 2
    padding: int = Field(4, ge=1, le=1024, description="pixels of zeros added on each side; 4 for 32 x 32, 1 for 8 x 8")

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        count, _, height, width = images.shape
        windows = functional.pad(images, (self.padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        top, left = (draws * (2 * self.padding + 1)).long().unbind(1)
        return windows[torch.arange(count, device=images.device), :, top, left]

"""Deep layers of the student reviewed for the teacher's shallow ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.errors import RecipeError
from compress_cli.losses import Layers, Loss, matched, over_teachers
from compress_cli.losses._projection import shrunk

WIDEST = 512  # channels inside the fusion modules, at most (the paper's code)
GRIDS = (4, 2, 1)  # the hierarchical context loss compares means over these grids, too (section 3.3)


class ReviewKd(Loss):
    """Fuse features from deep to shallow and compare each fusion with the teacher's (Chen et al. 2021, arXiv:2104.09044).

    Layers are given from shallow to deep; each is an image (N, C, H, W), or a vector (N, C) that counts as 1 x 1. The
    hierarchical context loss of a level is the mean of the MSE at full size and on grids of 4, 2 and 1 a side, weighing
    1, 1/2, 1/4, 1/8; summed over levels, averaged over teachers.
    """

    version: ClassVar[int] = 3
    weighs_samples: ClassVar[bool] = True

    layers: Layers = Field(
        min_length=1, description="shallow to deep: layer names, positions such as -2, or {student: ..., teacher: ...}"
    )

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        return nn.ModuleList(_Review(pairs) for pairs in self._levels(student, teacher))

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        assert isinstance(adapter, nn.ModuleList)
        terms = [
            _context(fused, image)
            for review, pairs in zip(adapter, self._levels(student, teacher), strict=True)
            for fused, (_, image) in zip(review(pairs), pairs, strict=True)
        ]
        return over_teachers(terms, [torch.ones_like(term) for term in terms], teacher)

    def _levels(self, student: Outputs, teacher: tuple[Outputs, ...]) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """For each teacher the (student, teacher) images, shallow to deep."""
        pairs = [(_image(s), _image(t)) for s, t in matched(student, teacher, self.layers)]
        for start in range(0, len(pairs), len(self.layers)):
            yield pairs[start : start + len(self.layers)]


class _Review(nn.Module):
    """One fusion for each level; the deepest has nothing to fuse with."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]]):
        super().__init__()
        inner = min(WIDEST, pairs[-1][0].shape[1])
        last = len(pairs) - 1
        self.fusions = nn.ModuleList(
            _Fusion(s.shape[1], inner, t.shape[1], fuses=level < last) for level, (s, t) in enumerate(pairs)
        )

    def forward(self, pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Fused features of the teacher's shapes, shallow to deep."""
        fused, deeper = [], None
        for fusion, (s, t) in zip(reversed(self.fusions), reversed(pairs), strict=True):
            image, deeper = fusion(s, deeper, t.shape[2:])
            fused.append(image)
        return fused[::-1]


class _Fusion(nn.Module):
    """Attention-based fusion (section 3.3): an attention map for each of two levels weighs their sum."""

    def __init__(self, width: int, inner: int, teacher_width: int, fuses: bool):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(width, inner, 1, bias=False), _Norm(inner))
        self.attention = nn.Sequential(nn.Conv2d(2 * inner, 2, 1), nn.Sigmoid()) if fuses else None
        self.leave = nn.Sequential(nn.Conv2d(inner, teacher_width, 3, padding=1, bias=False), _Norm(teacher_width))
        for convolution in (self.enter[0], self.leave[0]):
            assert isinstance(convolution, nn.Conv2d)
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # as the paper's code

    def forward(self, student: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """(N, width, h, w), (N, inner, ...) -> (N, teacher_width, *size) to compare, (N, inner, *size) for the next level."""
        x = self.enter(student)
        if self.attention is not None and deeper is not None:
            deeper = functional.interpolate(deeper, x.shape[2:])
            maps = self.attention(torch.cat([x, deeper], 1))  # (N, 2, h, w)
            x = x * maps[:, :1] + deeper * maps[:, 1:]
        x = functional.interpolate(x, size)
        return self.leave(x), x


class _Norm(nn.BatchNorm2d):
    """Batch normalisation by its running statistics where a batch has one value a channel, which has no deviation."""

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > x.shape[1]:
            return super().forward(x)
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def _context(student: Tensor, teacher: Tensor) -> Tensor:
    """The hierarchical context loss of images of one shape, for each sample: (N, C, H, W) each -> (N,)."""
    terms, weights = [_squares(student, teacher)], [1.0]
    for grid in GRIDS:
        if grid < min(student.shape[2:]):
            weights.append(weights[-1] / 2)
            terms.append(_squares(shrunk(student, grid, grid), shrunk(teacher, grid, grid)) * weights[-1])
    return torch.stack(terms).sum(0) / sum(weights)


def _squares(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of squared differences of each sample, (N,)."""
    return (student - teacher).square().flatten(1).mean(1)


def _image(features: Tensor) -> Tensor:
    if features.dim() not in (2, 4):
        raise RecipeError(f"review_kd needs images (N, C, H, W) or vectors (N, C); a layer gives {tuple(features.shape)}")
    return features[:, :, None, None] if features.dim() == 2 else features

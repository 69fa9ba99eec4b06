"""Pictures as a worse camera would take them: noise, blur, little contrast, each in five severities.

Strengths are those of CIFAR-10-C (Hendrycks & Dietterich 2019, arXiv:1903.12261); blur grows with the picture, so that
severity 3 looks alike at any size.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from compress_cli import randomness

VERSION = 1
Corruption = Literal["noise", "blur", "contrast"]

NOISE = (0.04, 0.06, 0.08, 0.09, 0.10)  # standard deviation, as a share of 255
BLUR = (0.4, 0.6, 0.7, 0.8, 1.0)  # standard deviation in pixels of a picture of 32
CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)  # what remains


def corrupted(images: np.ndarray, kind: Corruption, severity: int, index: np.ndarray, seed: int) -> np.ndarray:
    """uint8 (N, channels, height, width) -> the same, disturbed; noise is a function of seed and sample id."""
    wide = images.astype(np.float32)
    match kind:
        case "noise":
            wide += 255 * NOISE[severity - 1] * _normal(images, index, seed)
        case "blur":
            deviation = BLUR[severity - 1] * min(images.shape[2:]) / 32
            wide = _blurred(_blurred(wide, deviation, 2), deviation, 3)
        case "contrast":
            mean = wide.mean(axis=(2, 3), keepdims=True)
            wide = (wide - mean) * CONTRAST[severity - 1] + mean
    return np.asarray(np.clip(np.rint(wide), 0, 255), np.uint8)


def _normal(images: np.ndarray, index: np.ndarray, seed: int) -> np.ndarray:
    """Standard normal numbers of the pictures' shape (Box & Muller 1958)."""
    count = math.prod(images.shape[1:])
    uniform = randomness.draws(seed, 0, index, 2 * count)  # (N, 2 count), multiples of 2^-20 in [0, 1)
    radius = np.sqrt(-2 * np.log(1 - uniform[:, :count]))
    return np.asarray((radius * np.cos(2 * np.pi * uniform[:, count:])).reshape(images.shape))


def _blurred(images: np.ndarray, deviation: float, axis: int) -> np.ndarray:
    """A Gaussian along one axis, cut at three deviations; pictures are mirrored at their edges."""
    reach = min(max(1, math.ceil(3 * deviation)), images.shape[axis] - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    edges = [(0, 0)] * images.ndim
    edges[axis] = (reach, reach)
    wide = np.pad(images, edges, mode="reflect")
    blurred = np.zeros_like(images)
    for offset, weight in enumerate(weights / weights.sum()):
        blurred += np.float32(weight) * np.take(wide, np.arange(offset, offset + images.shape[axis]), axis=axis)
    return blurred

"""Recoveries: what wins back the accuracy that integers cost, without labels and without training the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx

from compress_cli.plugin import Plugin
from compress_cli.quantization.grids import Coded
from compress_cli.quantization.layers import Layer

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    """A float ONNX graph that is about to become integers."""

    model: onnx.ModelProto  # a recovery may change it in place
    layers: Mapping[str, Layer]  # node name -> its layer, of those that will compute in integers
    samples: list[Batch]  # some of the calibration samples


class Recovery(Plugin):
    """Acts at one of three moments; each does nothing unless a recovery says otherwise."""

    samples: ClassVar[int] = 64
    """Calibration samples that it is given at most: they are in memory."""
    remedy: ClassVar[str] = "leave it out"
    """What to do where it finds nothing to change."""

    def rescale(self, job: Job) -> int:
        """Change weights so that they round better, and the graph computes what it did; how many places were changed."""
        return 0

    def round(self, job: Job, coded: dict[str, Coded]) -> int:
        """Choose other codes than the nearest, of the scales given (node name -> codes); how many layers were changed."""
        return 0

    def correct(self, job: Job, coded: Mapping[str, Coded]) -> int:
        """Change biases by what the codes are off on average; how many layers were changed."""
        return 0

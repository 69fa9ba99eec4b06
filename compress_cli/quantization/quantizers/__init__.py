"""Quantizers: how weights and activations become small integers, in a PyTorch graph or in an ONNX file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from compress_cli.plugin import Plugin


class Quantizer(Plugin):
    """Annotates a graph and calibrates it. `prepare` on the same network gives the same graph, so that a Program can be
    rebuilt from settings and a state dict."""

    @abstractmethod
    def prepare(self, network: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
        """A graph with observers; run it over calibration batches, then convert. Takes and gives what `network` does."""

    @abstractmethod
    def convert(self, prepared: nn.Module) -> nn.Module:
        """The quantised graph that runs and exports."""

    @abstractmethod
    def quantize_onnx(self, model: Path, name: str, batches: Iterable[dict[str, np.ndarray]], output: Path) -> dict[str, Any]:
        """Quantise an ONNX file after calibrating on batches of its inputs; returns facts (layers left float, ...).

        name: what the user calls the file, for messages. StageError where it can't be quantised."""

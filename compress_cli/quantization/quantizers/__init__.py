"""Quantizers: how weights and activations become small integers, in a PyTorch graph or in an ONNX file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor, nn

from compress_cli.errors import StageError
from compress_cli.plugin import Plugin
from compress_cli.quantization.fake_quantization import Ranges
from compress_cli.quantization.overrides import Override
from compress_cli.quantization.trainable import TrainableGraph
from compress_cli.settings import Many, NotInKeyAtDefault


class Quantizer(Plugin):
    """A number format and how it is found.

    Every quantizer takes ONNX files. One that also quantises graphs of PyTorch has `makes_program`, `prepare` and `convert`:
    `prepare` on the same network gives the same graph, so that a Program can be rebuilt from settings and a state dict.
    """

    weight_bits: ClassVar[tuple[int, int]] = (2, 16)
    """Fewest and most bits of weights that an override may ask for."""
    activation_bits: ClassVar[tuple[int, int] | None] = None
    """Of activations; None where they stay float anyway."""

    computes_in_integers: ClassVar[bool] = False
    """Whether files may be faster than float ones; others become float when they are opened, and are smaller only."""

    overrides: Annotated[Many[Override], NotInKeyAtDefault()] = Field(
        (), description="other bits for layers whose names fit a pattern; a pattern that fits none is an error"
    )

    @model_validator(mode="after")
    def _can_override(self) -> Self:
        for override in self.overrides:
            if override.activations is not None and self.activation_bits is None:
                raise ValueError(
                    f"overrides of '{override.layers}': '{self.type}' leaves all activations float; leave them out"
                )
            bits = (
                (override.weights, self.weight_bits, "weights"),
                (override.activations, self.activation_bits, "activations"),
            )
            for asked, allowed, what in bits:
                if isinstance(asked, int) and allowed and not allowed[0] <= asked <= allowed[1]:
                    raise ValueError(
                        f"overrides of '{override.layers}': {what} of '{self.type}' have {allowed[0]} to {allowed[1]} bits "
                        f"(got {asked}); or write float"
                    )
        return self

    @property
    def makes_program(self) -> bool:
        """Whether a checkpoint becomes a Program, which PyTorch can run; otherwise its ONNX file is quantised."""
        return False

    def resolved(self) -> Quantizer:
        """With what depends on this machine decided."""
        return self

    def prepare(self, network: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
        """A graph with observers; run it over calibration batches, then convert. Takes and gives what `network` does."""
        raise StageError(f"the quantizer '{self.type}' quantises ONNX files, not graphs of PyTorch")

    def prepare_qat(self, network: nn.Module, example: tuple[Tensor, ...], ranges: Ranges) -> TrainableGraph:
        """A graph with fake quantisers to be trained, where `prepare` has observers; it shares no weights with `network`."""
        raise StageError(f"the quantizer '{self.type}' has no simulation in PyTorch to train; take static_int8")

    def settle(self, prepared: nn.Module) -> list[dict[str, Any]]:
        """Decide from what a calibrated graph has seen what stays float after all, and say why; `convert` does so too."""
        return []

    def convert(self, prepared: nn.Module) -> nn.Module:
        """The quantised graph that runs and exports."""
        raise StageError(f"the quantizer '{self.type}' quantises ONNX files, not graphs of PyTorch")

    @abstractmethod
    def quantize_onnx(self, model: Path, name: str, batches: Iterable[dict[str, np.ndarray]], output: Path) -> dict[str, Any]:
        """Quantise an ONNX file, after calibrating on batches of its inputs where ranges are static; returns facts.

        name: what the user calls the file, for messages. The facts hold `layers` (of each: bits, range, share clipped, signal
        over noise, bytes) and `left_float`. StageError where it can't be quantised, or nothing would change.
        """

"""Whatever suits the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from compress_cli.plugin import find
from compress_cli.quantization import layers, processor, source
from compress_cli.quantization.quantizers import Quantizer

STATIC = ("Conv", "Gemm")
"""Operators whose activations ONNX Runtime rounds once; matrix products of three axes are those of transformers."""


class Auto(Quantizer):
    """int8 as suits the graph: static where most weights are in convolutions and plain linear layers, dynamic where most are in
    the matrix products of transformers or in embeddings, and where there are recurrent layers.

    A checkpoint's ONNX file is looked at, so the result is a file. The facts say what was taken (`mode`).
    """

    version: ClassVar[int] = 2  # a recurrent layer decides, whatever has most weights
    weight_bits: ClassVar[tuple[int, int]] = (8, 8)
    computes_in_integers: ClassVar[bool] = True

    reduce_range: bool | None = Field(
        None,
        description="weights of 7 bits, for x86 processors without VNNI; default: where this machine is one of them",
    )

    def resolved(self) -> Auto:
        if self.reduce_range is not None:
            return self
        return self.model_copy(update={"reduce_range": not processor.sums_are_exact()})

    def quantize_onnx(self, model: Path, name: str, batches: Iterable[dict[str, np.ndarray]], output: Path) -> dict[str, Any]:
        original = source.load(model)
        source.check(original, name, layers.WITH_WEIGHTS)
        known = layers.aliases(original)
        simple = source.simplified(original, name)
        counts: Counter[bool] = Counter()
        found = layers.layers(simple, known)
        for layer in found:
            counts[layer.operator in STATIC] += layers.array(simple, layer.weight).size
        recurrent = any(layer.operator in layers.RECURRENT for layer in found)  # static ranges know no steps of a sequence
        mode = "static_int8" if counts[True] >= counts[False] and not recurrent else "dynamic_int8"
        settings = {"reduce_range": self.reduce_range, "overrides": [each.model_dump() for each in self.overrides]}
        quantizer = find(Quantizer, mode).model_validate(settings)
        assert isinstance(quantizer, Quantizer)
        return {"mode": mode, **quantizer.quantize_onnx(model, name, batches, output)}

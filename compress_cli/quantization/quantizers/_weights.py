"""What quantizers of weights share: every layer's weights become codes, activations stay float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compress_cli.errors import StageError
from compress_cli.onnx_graph import files
from compress_cli.quantization import distributions, layers, overrides, source
from compress_cli.quantization.grids import Coded
from compress_cli.quantization.layers import FEWEST, Layer
from compress_cli.quantization.overrides import Override, Widths
from compress_cli.quantization.packing import Packer

Code = Callable[[np.ndarray, Layer, int], Coded]
"""(weights, layer, bits) -> codes."""
Tuner = Callable[[onnx.ModelProto, onnx.ModelProto, Layer, Coded], Coded]
"""(float graph, graph whose layers before this one are rounded, layer, its codes) -> better codes."""


def quantize(
    model: Path, name: str, output: Path, chosen: tuple[Override, ...], bits: int, code: Code, tune: Tuner | None = None
) -> dict[str, Any]:
    """Write `output` with the weights of every layer as codes; facts about each layer.

    StageError where there is nothing to quantise, or a weight is not a number.
    """
    original = source.load(model)
    source.check(original, name, layers.WITH_WEIGHTS)
    known = layers.aliases(original)
    simple = source.simplified(original, name)
    found = layers.layers(simple, known)
    overrides.check(chosen, (layer.name for layer in found))
    packer, facts, left = Packer(simple), [], []
    drawn: dict[str, dict[str, Any]] = {}
    rounded = onnx.ModelProto()
    if tune:
        rounded.CopyFrom(simple)
    for layer in found:
        widths = overrides.widths(chosen, layer.name, Widths(bits, None))
        weights = layers.array(simple, layer.weight)
        if not np.isfinite(weights).all():
            raise StageError(f"{name}: the weights of '{layer.name}' hold NaN or infinity; check the training of the model")
        if widths.weights is None or weights.size < FEWEST:
            left.append(f"{layer.name}: {layer.operator}")
        elif layer.weight not in packer.replaced:
            coded = code(weights, layer, widths.weights)
            if tune:
                coded = tune(simple, rounded, layer, coded)
                layers.replace(rounded, {layer.weight: coded.values()})
            packer.store(layer.weight, coded)
            facts.append(layers.fact(layer.name, layer.operator, coded, weights))
            drawn[layer.name] = distributions.of_weights(layer.name, weights, coded)
    if not facts:
        raise StageError(f"{name}: nothing was quantised: no layer of it has {FEWEST} weights, or all are to stay float")
    packer.finish()
    layers.write(simple, original, output, found)
    shown = [drawn[name] for name in distributions.worst(facts)]
    result: dict[str, Any] = {"layers": facts, "distributions": shown, "left_float": left, "stored_in": "codes"}
    return {**result, "operators": files.operators(files.load(output))}

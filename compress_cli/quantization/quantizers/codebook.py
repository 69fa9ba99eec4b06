"""A table of weights, and indices into it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx
import torch
from pydantic import Field

from compress_cli.errors import StageError
from compress_cli.quantization import grids, layers, ranges, reconstruction
from compress_cli.quantization.grids import Coded
from compress_cli.quantization.layers import Layer
from compress_cli.quantization.quantizers import Quantizer
from compress_cli.quantization.quantizers._weights import quantize
from compress_cli.settings import NotInKeyAtDefault, Settings

VALUES_RATE, CHOICES_RATE = 0.003, 0.1  # learning rates of Adam: in the spread of a table's values, and as in AdaRound
REGULARIZATION = 5.0  # as in AdaRound


class FineTune(Settings):
    """Values of a codebook, learned on calibration samples."""

    steps: int = Field(300, ge=1, le=20_000, description="gradient steps for each layer")
    batch: int = Field(32, ge=1, le=4096, description="samples in one step")


class Codebook(Quantizer):
    """Weights that share 2^bits values, those that k-means finds in each layer (Han et al. 2016, arXiv:1510.00149).

        - {type: quantize, quantizer: {type: codebook, bits: 2, fine_tune: {steps: 300}}}

    The file holds indices and, for each layer, a table of float values; both are counted in its size. Weights that are 0,
    such as those that were pruned, stay 0 from 2 bits on.

    `fine_tune` learns the values, and for each weight which of its two nearest ones it takes, so that each layer gives what the
    float one does on calibration samples; no labels are needed, and it pays at 3 bits and fewer. To learn them from labels or
    a teacher, let `train` or `distill` follow the stage `share_weights`.
    """

    version: ClassVar[int] = 2  # zeros stay zero
    weight_bits: ClassVar[tuple[int, int]] = (1, 8)

    bits: int = Field(4, ge=1, le=8, description="of an index: 4 bits are a table of 16 values")
    fine_tune: Annotated[FineTune | None, NotInKeyAtDefault()] = Field(
        None, description="learn the values on calibration samples, so that the layers' outputs stay; default: those of k-means"
    )

    def quantize_onnx(self, model: Path, name: str, batches: Iterable[dict[str, np.ndarray]], output: Path) -> dict[str, Any]:
        if self.fine_tune is None:
            return quantize(model, name, output, self.overrides, self.bits, self._code)
        samples, _ = ranges.first(batches, reconstruction.SAMPLES)
        if not samples:
            raise StageError(f"{name}: there are no calibration samples, and fine-tuned values need some")
        tuner = partial(_tuned, self.fine_tune, samples)
        return quantize(model, name, output, self.overrides, self.bits, self._code, tuner)

    def _code(self, weights: np.ndarray, layer: Layer, bits: int) -> Coded:
        return grids.clustered(weights, bits)


def _tuned(
    how: FineTune, samples: list[ranges.Batch], exact: onnx.ModelProto, rounded: onnx.ModelProto, layer: Layer, start: Coded
) -> Coded:
    """The values with the least squared error of the layer's outputs, and for each weight the better of its two nearest ones.

    A value that is 0 stays 0, as do weights that are. Embeddings, recurrent layers and weights that several layers share stay.
    """
    node = next(node for node in exact.graph.node if node.name == layer.node)
    reads = Counter(name for other in exact.graph.node for name in other.input)
    is_alone = reads[layer.weight] == 1 and layer.position == 1
    if start.table is None or len(start.table) < 2 or not is_alone or not reconstruction.is_supported(node):
        return start
    target = reconstruction.Target.of(exact, rounded, node, layer, samples)
    weights, table = torch.from_numpy(layers.array(exact, layer.weight).copy()), torch.from_numpy(start.table.copy())
    lower = (torch.searchsorted(table, weights) - 1).clamp(0, len(table) - 2)  # the upper value is the next one
    choice = reconstruction.choice_of((weights - table[lower]) / (table[lower + 1] - table[lower]))
    moves = torch.zeros_like(table, requires_grad=True)
    spread, unit = float(table.abs().max()), target.squared_error(start, target.training) or 1.0
    optimizer = torch.optim.Adam([{"params": [moves], "lr": VALUES_RATE}, {"params": [choice], "lr": CHOICES_RATE}])
    for step, rows in enumerate(target.batches(how.steps, how.batch)):
        values, up = table + spread * moves * (table != 0), reconstruction.share_up(choice)
        mixed = torch.where(weights == 0, weights, values[lower] * (1 - up) + values[lower + 1] * up)
        loss = target.error(mixed, rows) / unit + REGULARIZATION * reconstruction.undecided(up, step / how.steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = (table + spread * moves.detach() * (table != 0)).numpy()
    codes = (lower + reconstruction.share_up(choice.detach()).round().long()).numpy()
    codes = np.where(weights == 0, start.codes, codes).astype(start.codes.dtype)
    return target.better(dataclasses.replace(start, codes=codes, table=learned), start)

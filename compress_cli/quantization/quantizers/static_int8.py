"""Static int8: ranges measured once, on calibration samples."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx
import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.errors import StageError
from compress_cli.onnx_graph import alignment, files
from compress_cli.quantization import (
    annotation,
    fake_quantization,
    grids,
    headroom,
    joins,
    layers,
    observer,
    opset,
    overrides,
    processor,
    source,
    training_modes,
    twins,
)
from compress_cli.quantization.annotation import AnnotationQuantizer
from compress_cli.quantization.calibrations import Calibration
from compress_cli.quantization.calibrations.min_max import MinMax
from compress_cli.quantization.calibrations.mse import Mse
from compress_cli.quantization.calibrations.percentile import Percentile
from compress_cli.quantization.fake_quantization import Ranges
from compress_cli.quantization.grids import Coded
from compress_cli.quantization.layers import Layer
from compress_cli.quantization.overrides import Widths
from compress_cli.quantization.quantizers import Quantizer
from compress_cli.quantization.recoveries import Recovery
from compress_cli.quantization.static import Static, quantize
from compress_cli.quantization.tracing import quiet, trace
from compress_cli.quantization.trainable import TrainableGraph, begin_weights
from compress_cli.settings import Many, NotInKeyAtDefault

OLDEST_OPSET, OLDEST_IR = 13, 7  # the first with a scale per channel


class StaticInt8(Quantizer):
    """uint8 activations and int8 weights, a scale per output channel (Jacob et al. 2018, arXiv:1712.05877;
    Krishnamoorthi 2018, arXiv:1806.08342).

        - type: quantize
          quantizer:
            type: static_int8
            calibration: percentile
            overrides: [{layers: conv1, weights: float}, {layers: "layer4.*", weights: 4}]

    A layer whose weights or activations are float computes in float; with `activations: float` its weights are still stored
    as integers. What comes before the first learned layer stays float: it prepares the inputs. The last linear layer gives
    float, so that logits don't tie. Weights of 2 to 7 bits run in the kernels of 8; with 4 bits and fewer the file is smaller.

    `reduce_range`: small digit classifiers (24k to 270k parameters) on an x86 processor with AVX2 alone had a signal over
    quantisation noise of 35 to 37 dB with 7-bit weights, as simulated; with 8-bit weights 17 to 25 dB instead of the 38 to
    42 simulated, up to 1.1 points of accuracy lost, and no speed gained. With VNNI or on ARM, 8 bits gain 1 to 7 dB.
    """

    weight_bits: ClassVar[tuple[int, int]] = (2, 8)
    computes_in_integers: ClassVar[bool] = True
    activation_bits: ClassVar[tuple[int, int] | None] = (2, 8)

    calibration: Calibration | None = Field(
        None,
        description="which range of the activations the integers stand for; default: of a graph of PyTorch mse, of an ONNX "
        "file what has the least output error on calibration samples among mse, min_max and percentile",
    )
    recover: Annotated[Many[Recovery], NotInKeyAtDefault()] = Field(
        (),
        description="what wins accuracy back: equalization, bias_absorption, smooth_quant, ada_round, bias_correction; the "
        "result is a file",
    )
    reduce_range: bool | None = Field(
        None,
        description="weights of 7 bits: x86 processors without VNNI add two products in 16 bits, which 8-bit weights overflow; "
        "default: where this machine is one of them. Set it where the file runs elsewhere",
    )
    per_channel: Annotated[bool, NotInKeyAtDefault()] = Field(
        True, description="a scale for each output channel; without, one for all of a layer's weights"
    )

    float_joins: Annotated[bool, NotInKeyAtDefault()] = Field(
        True,
        description="leave joins (`Concat`) float of which an operand gets too few of the 255 steps of the range that all "
        "share, such as a class token beside patches; without, all joins compute in integers",
    )

    @property
    def makes_program(self) -> bool:
        plain = all(each.activations is None or each.weights == "float" for each in self.overrides)
        return plain and self.per_channel and not self.recover

    def resolved(self) -> StaticInt8:
        if self.reduce_range is not None:
            return self
        return self.model_copy(update={"reduce_range": not processor.sums_are_exact()})

    def _largest(self, bits: int) -> int:
        """Of a weight: two products of 255 and 64 still fit 16 bits."""
        full: int = 2 ** (bits - 1) - 1
        reduced = self.reduce_range if self.reduce_range is not None else not processor.sums_are_exact()
        return min(full, 64) if reduced else full

    def prepare(self, network: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
        """The network's graph with observers. StageError where there is nothing to quantise."""
        with quiet("torch.utils._pytree"):
            from torchao.quantization.pt2e import PerChannelMinMaxObserver

        activations, weights = observer.observing(self.calibration or Mse()), PerChannelMinMaxObserver
        graph = self._recorded(network, example)
        prepared = self._annotated(graph, activations, weights.with_args(eps=fake_quantization.SMALLEST_SCALE))
        _observe_weights(prepared)
        return prepared

    def prepare_qat(self, network: nn.Module, example: tuple[Tensor, ...], ranges: Ranges) -> TrainableGraph:
        """A graph of its own with fake quantisers where `prepare` has observers, and batch norms that are not folded yet."""
        graph = self._recorded(copy.deepcopy(network), example)
        training_modes.write(graph)
        prepared = self._annotated(graph, *fake_quantization.makers(ranges))
        trainable = TrainableGraph(prepared, prepared.graph)
        begin_weights(trainable)
        return trainable

    def _recorded(self, network: nn.Module, example: tuple[Tensor, ...]) -> torch.fx.GraphModule:
        open_axes = getattr(getattr(network, "signature", None), "open_axes", ())  # of a network that was built for data
        graph = trace(network, example, open_axes).module()
        assert isinstance(graph, torch.fx.GraphModule)
        return graph

    def _annotated(self, graph: torch.fx.GraphModule, activations: Any, weights: Any) -> torch.fx.GraphModule:
        """The graph with what `activations` and `weights` make at its places. StageError where there is nothing to quantise."""
        with quiet("torch.utils._pytree"):
            from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
            from torchao.quantization.pt2e.quantizer import QuantizationSpec

        activation = QuantizationSpec(
            dtype=torch.uint8, quant_min=0, quant_max=255, qscheme=torch.per_tensor_affine,
            observer_or_fake_quant_ctr=activations,
        )  # fmt: skip

        def weight(layer: str) -> Any:
            bits = overrides.widths(self.overrides, layer, Widths(8, 8))
            if bits.weights is None or bits.activations is None:
                return None
            largest = self._largest(bits.weights)
            return QuantizationSpec(
                dtype=torch.int8, quant_min=-largest, quant_max=largest, qscheme=torch.per_channel_symmetric, ch_axis=0,
                observer_or_fake_quant_ctr=weights,
            )  # fmt: skip

        annotations = AnnotationQuantizer(activation, weight)
        prepared: torch.fx.GraphModule = prepare_pt2e(graph, annotations)
        if not annotations.layers:
            raise StageError(
                "there is nothing to quantise: the model has no convolution and no linear layer; dynamic_int8 and weight_only "
                "take embeddings and recurrent layers too"
            )
        overrides.check(self.overrides, annotations.layers)
        if not any(annotation.weight for annotation in annotations.annotations):
            raise StageError("there is nothing to quantise: all layers are to stay float")
        return prepared

    def settle(self, prepared: nn.Module) -> list[dict[str, Any]]:
        """Leave joins float whose operands get too few steps; these operands."""
        return joins.facts(joins.leave_float(prepared)) if self.float_joins else []

    def convert(self, prepared: nn.Module) -> nn.Module:
        """The graph with quantise/dequantise pairs and int8 weights; `prepared` is used up."""
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        self.settle(prepared)
        converted: torch.fx.GraphModule = convert_pt2e(prepared)
        twins.absorb(converted)
        headroom.use(converted, annotation.CONTRACTIONS, is_reduced=self._largest(8) < 127)
        annotation.name_weights(converted)
        return converted

    def quantize_onnx(self, model: Path, name: str, batches: Iterable[dict[str, np.ndarray]], output: Path) -> dict[str, Any]:
        """Quantise a float ONNX file; one batch is in memory at a time, and of its activations only histograms stay.

        The file's metadata survives. A file of an older opset is converted first, and both are compared on numbers
        like those of the first batch. StageError where nothing can be quantised or the file is quantised already.
        """
        original = source.load(model)
        source.check(original, name)
        calibration = iter(batches)
        first = next(calibration, None)
        if first is None:
            raise StageError(f"{name}: there are no calibration samples, and static ranges need some")
        facts: dict[str, Any] = {}
        later = original
        if opset.version(original) < OLDEST_OPSET:
            later, facts["converted"] = opset.converted(original, OLDEST_OPSET, first, name, "has no scale per channel")
        known = layers.aliases(later)
        simple = source.simplified(later, name)
        card = onnx.ModelProto(metadata_props=original.metadata_props)
        del original, later  # and the memory of their weights
        source.with_integer_twins(simple)
        found = layers.layers(simple, known)
        overrides.check(self.overrides, (layer.name for layer in found))
        static = Static(self._calibrations, self._widths, self._code, self.recover, self.float_joins)
        result = quantize(simple, found, static, itertools.chain([first], calibration), name)
        files.drop_defaults(result.model)
        alignment.align(result.model)
        layers.write(result.model, card, output, found, OLDEST_IR)
        return {
            **facts,
            **result.facts,
            "reduce_range": self._largest(8) < 127,
            "operators": files.operators(files.load(output)),
        }

    @property
    def _calibrations(self) -> tuple[Calibration, ...]:
        return (self.calibration,) if self.calibration else (Mse(), MinMax(), Percentile())

    def _widths(self, layer: Layer) -> Widths:
        return overrides.widths(self.overrides, layer.name, Widths(8, 8))

    def _code(self, weights: np.ndarray, layer: Layer) -> Coded:
        bits = self._widths(layer).weights
        assert bits is not None
        return grids.linear(weights, bits, layer.axis if self.per_channel else None, largest=self._largest(bits))


def _observe_weights(prepared: nn.Module) -> None:
    """Show the weights to their observers at once: these then have the shapes that a saved state has."""
    assert isinstance(prepared, torch.fx.GraphModule)
    for node in prepared.graph.nodes:
        if node.op == "call_module" and node.args and node.args[0].op == "get_attr":
            weight = operator.attrgetter(node.args[0].target)(prepared)
            prepared.get_submodule(node.target)(weight)

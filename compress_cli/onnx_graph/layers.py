"""What a model on disk is made of, layer by layer. Nothing is run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import onnx
from pydantic import BaseModel, ConfigDict

from compress_cli.errors import ArtifactError
from compress_cli.onnx_graph import contents, graph, limits, macs, packing, rebuilding
from compress_cli.onnx_graph.contents import Contents, Model
from compress_cli.onnx_graph.graph import Unknown
from compress_cli.onnx_graph.shapes import Shapes
from compress_cli.settings import suggest

PASSING = {"DequantizeLinear", "Cast", "Identity", "Pad", "Transpose", "Reshape"}
"""Operators through which a constant is still that constant."""
FUSED = re.compile(r"^(?:Conv\w+?Fusion_\w_)+")  # what ONNX Runtime puts before the names of folded weights


class Layer(BaseModel):
    """One operator with weights or multiplications, or one module of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    operator: str = ""
    shapes: list[list[int]]
    """Of its weights."""
    kinds: dict[str, int]
    """Number type -> parameters stored in it."""
    parameters: int
    zeros: int | None
    """How many of them are 0; None where they can't be read one by one (packed or 8-bit floating formats)."""
    output: list[int | None] | None = None
    """Shape of its output, the batch first; None where it is unknown."""
    macs: int | None = None
    """For one sample; None where they are not known."""


class Listing(BaseModel):
    """A whole model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    what: str
    parameters: int
    kinds: dict[str, int]
    zeros: int | None
    macs: int | None
    macs_unknown: str = ""
    size_bytes: int
    layers: list[Layer]
    contents: Contents | None = None
    """Of an ONNX file: its bytes by kind, and how far it can be compressed."""
    storage: dict[str, int] = {}
    """Of an ONNX file with packed weights: its bytes by what they hold (codes, codebook, positions, values, dense, graph)."""

    @classmethod
    def of(cls, path: Path, what: str, layers: list[Layer], size_bytes: int, macs: int | None, macs_unknown: str) -> Self:
        """The layers with their sums."""
        kinds: Counter[str] = Counter()
        for layer in layers:
            kinds.update(layer.kinds)
        return cls(
            path=str(path), what=what, parameters=kinds.total(), kinds=dict(kinds.most_common()),
            zeros=known_sum(layer.zeros for layer in layers), macs=macs, macs_unknown=macs_unknown, size_bytes=size_bytes,
            layers=layers,
        )  # fmt: skip


def of_onnx(path: Path, sizes: Mapping[str, tuple[int, ...]] | None = None) -> Listing:
    """The operators of a file that hold weights or multiply; ArtifactError where it, or its external data, can't be read.

    sizes: input name -> its shape, where an axis besides the batch is open.
    """
    listing = Listing.model_validate_json(limits.bounded(path, lambda: _listing(path, sizes).model_dump_json()))
    assert listing.contents is not None
    return listing.model_copy(update={"contents": contents.with_compressed_bytes(listing.contents, path)})


def plain_name(weight: str) -> str:
    """`layer1.0.conv1` of `body.layer1.0.conv1.weight`."""
    name = FUSED.sub("", weight).removeprefix("body.").removesuffix("_quantized").removesuffix("_codes")
    return re.sub(r"[./](weight|kernel|W|bias)$", "", name)


def known_sum(counts: Iterable[int | None]) -> int | None:
    """The sum, None where one of the counts is not known."""
    counts = list(counts)
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _listing(path: Path, sizes: Mapping[str, tuple[int, ...]] | None) -> Listing:
    model = Model.load(path, sizes)
    inputs = [port.name for port in model.graph.input]
    unknown = [name for name in sizes or {} if name not in inputs]
    if unknown:
        raise ArtifactError(f"{path}: has no input '{unknown[0]}', of which a shape is stated; {suggest(unknown[0], inputs)}")
    whole = contents.of_model(model)
    listing = Listing.of(path, "ONNX file", _Layers(model).listed(), whole.size_bytes, whole.macs, whole.macs_unknown)
    return listing.model_copy(update={"contents": whole, "storage": packing.account(model.proto)})


class _Layers:
    """The operators of a model, each with the weights that reach it first."""

    def __init__(self, model: Model):
        self.model = model
        self.tensors = {name: tensor for tensor, name in graph.tensors(model.graph)}
        self.sparse = graph.sparse(model.graph)
        self.codebooks = graph.codebooks(model.graph)
        self.rebuilt = rebuilding.rebuilt(model.graph)
        self.rebuilding = rebuilding.operators(model.graph)
        self.source = {name: name for name in model.weights}  # value -> the constant that it is
        self.unused = dict(model.weights)
        self.constants = {*self.tensors}

    def listed(self) -> list[Layer]:
        layers = []
        for node in self.model.graph.node:
            if node.output[0] in self.rebuilding or self._passes(node):
                continue
            sources = dict.fromkeys(self.source[name] for name in node.input if name in self.source)
            weights = [name for name in sources if name in self.unused]
            count = self._macs(node)
            if weights or count != 0:
                layers.append(self._layer(self._title(node, weights), weights, node, count))
        return layers + [self._layer(name, [name], None, 0) for name in list(self.unused)]

    def _title(self, node: onnx.NodeProto, weights: list[str]) -> str:
        """The name of its weights, where the node has none of its own or is only called as what it gives."""
        if weights and node.name in ("", node.output[0]):
            return plain_name(max(weights, key=lambda name: self.unused[name][1]))
        return node.name or node.output[0]

    def _passes(self, node: onnx.NodeProto) -> bool:
        """Whether a constant goes through the operator and is still that constant: its result is one then."""
        if all(name in self.constants for name in node.input):
            self.constants.update(node.output)
            scaled = [name for name in node.input if name in self.source]
            if node.op_type == "Mul" and len(scaled) == 1:  # codes times their steps
                self.source[node.output[0]] = self.source[scaled[0]]
                return True
        if node.op_type in PASSING and node.input and node.input[0] in self.source:
            self.source[node.output[0]] = self.source[node.input[0]]
            return True
        if node.op_type == "Gather" and self.source.get(node.input[1]) in self.codebooks:
            self.source[node.output[0]] = self.source[node.input[1]]
            return True
        return False

    def _layer(self, title: str, weights: list[str], node: onnx.NodeProto | None, count: int | None) -> Layer:
        kinds: Counter[str] = Counter()
        for name in weights:
            kind, parameters = self.unused.pop(name)
            kinds[kind] += parameters
        known = self.model.shapes
        output = known.shapes.get(node.output[0]) if node and isinstance(known, Shapes) else None
        return Layer(
            name=title,
            operator=node.op_type if node else "",
            shapes=[self._shape(name) for name in weights],
            kinds=dict(kinds),
            parameters=kinds.total(),
            zeros=known_sum(self.model.zeros[name] for name in weights),
            output=list(output) if output is not None else None,
            macs=count,
        )

    def _shape(self, name: str) -> list[int]:
        if name in self.rebuilt:
            return list(self.rebuilt[name].shape)
        return list(self.sparse[name].dims if name in self.sparse else self.tensors[name].dims)

    def _macs(self, node: onnx.NodeProto) -> int | None:
        if isinstance(self.model.shapes, Unknown):
            return 0 if macs.is_free(node) else None
        return macs.of_node(node, self.model.shapes)

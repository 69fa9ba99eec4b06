"""What an ONNX file holds, told without running it: parameters, number types, multiply-accumulates, bytes, memory."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from pydantic import BaseModel, ConfigDict

from compress_cli.errors import ArtifactError
from compress_cli.onnx_graph import activations, files, graph, storage

VERSION = 3
LISTED = 20
ZERO_POINTS = {"DequantizeLinear": (0, 2), "QLinearConv": (3, 5), "QLinearMatMul": (3, 5), "MatMulInteger": (1, 3),
               "ConvInteger": (1, 3), "QGemm": (3, 5)}  # fmt: skip
"""Operator -> positions of weights and of the number that means 0 among them."""


class Constant(BaseModel):
    """One constant of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: str
    shape: list[int]
    size_bytes: int


class Contents(BaseModel):
    """What an ONNX file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: int
    """Weights, however they are stored; without scales, zero points, codebooks, and constants that normalise an input."""
    kinds: dict[str, int]
    """Number type -> how many of the parameters are stored in it."""
    nonzero: int | None
    """Parameters that are not 0; None where they can't be read one by one."""
    macs: int | None
    """Multiply-accumulates for one sample in convolutions and matrix products; None where they can't be known."""
    macs_unknown: str = ""
    """Why not."""
    peak_activation_bytes: int | None
    """Estimate of what the values between operators take at most at once, for one sample."""
    peak_activation_unknown: str = ""
    size_bytes: int
    """With external data."""
    gzip_bytes: int | None
    zstd_bytes: int | None
    compressed_unknown: str = ""
    """Why one of the two is not known."""
    bytes_by_kind: dict[str, int]
    """Number type -> bytes of all constants, scales and shapes too; what is left of the file is the graph itself."""
    largest: list[Constant]
    """The twenty largest constants."""


def contents(path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> Contents:
    """Read a file; ArtifactError where it is no ONNX file, or its external data is missing or outside its folder.

    shapes: input name -> its shape, for counting the operations of a file that leaves axes open.
    """
    model = files.load(path)
    _fix(model.graph, shapes or {})
    external = storage.model_files(path, model)
    weights = graph.weights(model.graph)
    kinds: Counter[str] = Counter()
    for kind, count in weights.values():
        kinds[kind] += count
    try:
        macs, no_macs = graph.macs(model), ""
    except graph.Unknown as reason:
        macs, no_macs = None, str(reason)
    try:
        peak, no_peak = activations.peak_bytes(model), ""
    except graph.Unknown as reason:
        peak, no_peak = None, str(reason)
    gzip, zstd, no_bytes = storage.compressed_bytes(external)
    constants = _constants(model.graph, weights)
    by_kind: Counter[str] = Counter()
    for each in constants:
        by_kind[each.kind] += each.size_bytes
    zero = zeros(model, weights, path)
    counted = [weights[name][1] - each for name, each in zero.items() if each is not None]
    return Contents(
        parameters=kinds.total(),
        kinds=dict(kinds.most_common()),
        nonzero=sum(counted) if len(counted) == len(zero) else None,
        macs=macs,
        macs_unknown=no_macs,
        peak_activation_bytes=peak,
        peak_activation_unknown=no_peak,
        size_bytes=sum(each.stat().st_size for each in external),
        gzip_bytes=gzip,
        zstd_bytes=zstd,
        compressed_unknown=no_bytes,
        bytes_by_kind=dict(by_kind.most_common()),
        largest=sorted(constants, key=lambda each: -each.size_bytes)[:LISTED],
    )


def _fix(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Put numbers in the place of the open axes of inputs."""
    for port in graph.input:
        for axis, size in zip(port.type.tensor_type.shape.dim, shapes.get(port.name, ()), strict=False):
            axis.dim_value = size


def zeros(model: onnx.ModelProto, weights: dict[str, tuple[str, int]], path: Path) -> dict[str, int | None]:
    """Name of each constant with parameters -> how many of them mean 0; None where several are packed in one value.

    Integers mean 0 where they equal their zero point, indices of a codebook where its entry is 0. ArtifactError where data
    kept beside the file can't be read: it is read only from the file's own folder.
    """
    tensors = {name: tensor for tensor, name in graph.tensors(model.graph)}
    sparse = graph.sparse(model.graph)
    points = _zero_points(model.graph)
    books = graph.codebooks(model.graph)
    found: dict[str, int | None] = {}
    for name, (_, count) in weights.items():
        tensor = tensors[name]
        if name in sparse:
            found[name] = count - int(np.count_nonzero(_values(tensor, path)))
        elif math.prod(tensor.dims) != count or tensor.data_type == TensorProto.STRING:
            found[name] = None
        elif name in books:
            entries = _values(tensors[books[name]], path)
            indices = _values(tensor, path).astype(np.int64)
            inside = entries.ndim == 1 and indices.size and -len(entries) <= indices.min() and indices.max() < len(entries)
            found[name] = int((entries[indices] == 0).sum()) if inside else None
        else:
            point, axis = points.get(name, ("", 0))
            values = _values(tensor, path)
            zero = _values(tensors[point], path) if point in tensors else np.zeros((), values.dtype)
            if zero.ndim == 1 and zero.size > 1:
                fits = -values.ndim <= axis < values.ndim and values.shape[axis] == zero.size
                zero = np.moveaxis(zero.reshape(-1, *[1] * (values.ndim - 1)), 0, axis) if fits else zero[:0]
            found[name] = int((values == zero).sum()) if zero.size else None
    return found


def _zero_points(held: onnx.GraphProto) -> dict[str, tuple[str, int]]:
    """Name of quantised weights -> name of their zero point, and the axis that it goes along."""
    found = {}
    for node in held.node:
        weight, point = ZERO_POINTS.get(node.op_type, (0, len(node.input)))
        if point < len(node.input) and node.input[point]:
            default = {"DequantizeLinear": 1, "QLinearConv": 0, "ConvInteger": 0}.get(node.op_type, -1)
            found[node.input[weight]] = (node.input[point], graph.attribute(node, "axis", default))
    return found


def _values(tensor: TensorProto, path: Path) -> np.ndarray:
    try:
        return numpy_helper.to_array(tensor, base_dir=str(path.parent))
    except (ValueError, OSError, TypeError, KeyError, onnx.checker.ValidationError) as error:
        raise ArtifactError(f"{path}: the values of '{tensor.name}' can't be read ({str(error).splitlines()[0]})") from None


def _constants(held: onnx.GraphProto, weights: dict[str, tuple[str, int]]) -> list[Constant]:
    """Every constant tensor; a sparse one with its indices."""
    sparse = graph.sparse(held)
    found = []
    for tensor, name in graph.tensors(held):
        own = weights[name][0] if name in weights else graph.kind(tensor)
        bits = graph.bits(graph.kind(tensor))
        stored = math.ceil(math.prod(tensor.dims) * bits / 8)
        shape = list(sparse[name].dims) if name in sparse else list(tensor.dims)
        if name in sparse:
            indices = sparse[name].indices
            stored += math.prod(indices.dims) * graph.bits(graph.kind(indices)) // 8
        if tensor.data_type == TensorProto.STRING:
            stored = sum(map(len, tensor.string_data))
        found.append(Constant(name=name, kind=own, shape=shape, size_bytes=stored))
    return found

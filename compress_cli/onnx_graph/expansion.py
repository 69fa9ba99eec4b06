"""Constants that a runtime makes from little when it opens a file: a hundred bytes can stand for 32 GB of them."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from compress_cli.errors import ArtifactError
from compress_cli.onnx_graph import files, graph, limits, rebuilding, shapes
from compress_cli.onnx_graph.functions import inlined

GROWING = {
    "CenterCropPad", "Concat", "ConstantOfShape", "Expand", "EyeLike", "Gather", "GatherND", "OneHot", "Pad", "RandomNormal",
    "RandomUniform", "Range", "Resize", "Tile", "Upsample",
}  # fmt: skip
"""Operators whose result can be larger than the file that they stand in."""
SLIGHT = 2**16
"""Values that a constant may be filled up to without a closer look."""
MEASURING = {"Shape", "Size"}
"""Operators that give constants where the file fixes the shapes of its inputs."""


def check(path: Path) -> None:
    """ArtifactError where opening the file would take far more memory than its size explains, or would not end.

    Looks closer only where an operator of those that can grow has constants for inputs, or there are functions.
    """
    state = path.stat() if path.is_file() else None
    _check_once(path, state.st_mtime_ns if state else 0, state.st_size if state else 0)


@lru_cache(64)
def _check_once(path: Path, mtime_ns: int, size: int) -> None:
    """A file is opened several times in a comparison, and a large one takes a while to parse."""
    model = files.load(path)
    if model.functions or _grows(model.graph):
        limits.bounded(path, lambda: _checked(path, model))


def _checked(path: Path, model: onnx.ModelProto) -> str:
    size = path.stat().st_size + files.external_bytes(path, model)
    limits.extend(size - path.stat().st_size)
    try:
        flat = inlined(model)
        known = shapes.infer(flat, smallest(flat.graph))
    except graph.Unknown as reason:
        if model.functions:
            raise ArtifactError(f"{path}: can't be opened safely: {reason}") from None
        return ""  # the runtime refuses it by itself
    constants, total = _constants(flat.graph), rebuilding.opening_bytes(flat.graph)
    for node in flat.graph.node:
        if constants.issuperset(filter(None, node.output)):
            total += sum(_bytes(name, known) for name in node.output)
            if total > limits.MEMORY_BYTES + limits.MEMORY_FACTOR * size:
                raise ArtifactError(
                    f"{path}: its {node.op_type} '{node.name or node.output[0]}' makes {total} bytes of constants, and the "
                    f"file has {size}; it is damaged, or made to fill memory"
                )
    return ""


def _grows(graph: onnx.GraphProto) -> bool:
    constants, tensors = _constants(graph), {tensor.name: tensor for tensor in graph.initializer}
    return any(
        node.op_type in GROWING and constants.issuperset(filter(None, node.output)) and not _is_slight(node, tensors)
        for node in graph.node
    )


def _is_slight(node: onnx.NodeProto, tensors: dict[str, TensorProto]) -> bool:
    """Whether it puts a few values around a constant of the file, as around the weights of a first convolution."""
    source, margins = (tensors.get(name) for name in (*node.input, "", "")[:2])
    if node.op_type != "Pad" or len(node.input) != 2 or source is None or margins is None:
        return False
    rank = len(source.dims)
    if margins.data_type != TensorProto.INT64 or len(margins.raw_data) != 8 * 2 * rank:
        return False
    widths = np.frombuffer(margins.raw_data, np.int64)
    axes = [
        int(axis) + int(before) + int(behind) for axis, before, behind in zip(source.dims, widths, widths[rank:], strict=False)
    ]
    return min(map(int, widths), default=0) >= 0 and math.prod(axes) <= SLIGHT


def _constants(graph: onnx.GraphProto) -> set[str]:
    """Values that do not depend on what the inputs hold."""
    constants = {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}
    ports = [port for port in graph.input if port.name not in constants]
    is_fixed = all(axis.dim_value for port in ports for axis in port.type.tensor_type.shape.dim)
    for node in graph.node:
        if constants.issuperset(filter(None, node.input)) or (is_fixed and node.op_type in MEASURING):
            constants.update(filter(None, node.output))
    return constants


def smallest(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs with 1 for every open axis."""
    initial = {tensor.name for tensor in graph.initializer}
    return {
        port.name: tuple(axis.dim_value or 1 for axis in port.type.tensor_type.shape.dim)
        for port in graph.input
        if port.name not in initial
    }


def _bytes(name: str, known: shapes.Shapes) -> int:
    """0 where it is not known."""
    axes, kind = known.shapes.get(name, (None,)), known.kinds.get(name, TensorProto.UNDEFINED)
    if None in axes or kind in (TensorProto.UNDEFINED, TensorProto.STRING):
        return 0
    return math.prod(axis for axis in axes if axis is not None) * max(1, helper.tensor_dtype_to_np_dtype(kind).itemsize)

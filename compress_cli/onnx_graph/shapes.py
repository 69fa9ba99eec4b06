"""Shapes and number types of all values of an ONNX graph, inferred without running it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import onnx
from onnx import TensorProto, helper, shape_inference

from compress_cli.errors import RecipeError
from compress_cli.onnx_graph import contrib, folding, rebuilding
from compress_cli.onnx_graph.functions import inlined
from compress_cli.onnx_graph.graph import BRANCHING, Unknown

Shape = tuple[int | None, ...]

PASSES = 64
"""Rounds of inference and folding at most: a shape that depends on the values of another needs one of its own."""


@dataclass(frozen=True)
class Shapes:
    """What inference knows about a graph's values."""

    batch: int  # the number of samples that the shapes are for
    shapes: dict[str, Shape]
    kinds: dict[str, int]  # number types as ONNX counts them
    branches: dict[str, onnx.NodeProto]  # first output -> operator whose bodies hold the shapes of their own values
    unfilled: dict[str, Shape] = field(default_factory=dict)  # weights with zeros around them -> their shape without

    @cached_property
    def counted(self) -> dict[str, Shape]:
        """The shapes that multiply-accumulates are counted by: zeros that only fill weights up are no part of a model."""
        return self.shapes | self.unfilled


def infer(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, ...]] | None = None) -> Shapes:
    """Shape and number type of every value, for one sample where the file leaves the batch open.

    sizes: input name -> its shape, where an axis besides the batch is open. Unknown names what can't be inferred.
    """
    skeleton = _skeleton(inlined(model))
    batch = _close_axes(skeleton.graph, sizes or {})
    inferred = _inferred(skeleton)
    for _ in range(PASSES):
        known, kinds = values(inferred)
        if all(None not in known.get(name, (None,)) for node in inferred.node for name in node.output if name):
            break
        progress = folding.fold(skeleton, known)
        progress |= _apply_rules(skeleton.graph, known, kinds)
        if not progress:
            break
        inferred = _inferred(skeleton)
    known, kinds = values(inferred)
    branches = {node.output[0]: node for node in inferred.node if node.op_type in BRANCHING}
    return Shapes(batch, known, kinds, branches, _unfilled(skeleton.graph))


def _unfilled(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Value that is a constant with zeros around it, also dequantised -> the shape of that constant."""
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found: dict[str, Shape] = {}
    for node in graph.node:
        if node.op_type == "Pad" and node.input[0] in shapes and len(node.input) == 2 and not node.attribute:
            found[node.output[0]] = shapes[node.input[0]]
        elif node.op_type == "DequantizeLinear" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def parse(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs as a command line states them, `image=1x3x224x224`. An axis may be 0 long.

    RecipeError for another form.
    """
    shapes = {}
    for text in texts:
        name, _, axes = text.rpartition("=")
        lengths = axes.split("x")
        if not name or not all(length.isascii() and length.isdigit() and int(length) < 10**6 for length in lengths):
            raise RecipeError(f"--shape {text}: is not of the form input=1x3x224x224")
        shapes[name] = tuple(map(int, lengths))
    return shapes


def values(graph: onnx.GraphProto) -> tuple[dict[str, Shape], dict[str, int]]:
    """Name of each value that an inferred graph knows -> its shape; and its number type."""
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kinds[value.name] = value.type.tensor_type.elem_type
        if value.type.tensor_type.HasField("shape"):
            axes = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)
    return shapes, kinds


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the values of large constants, and without shapes that it claims for intermediate values: these
    may be left from before the graph was changed."""
    graph = model.graph
    weights, unpacking = rebuilding.rebuilt(graph), rebuilding.operators(graph)
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    skeleton.graph.name = graph.name
    skeleton.graph.node.extend(contrib.standardised(node) for node in graph.node if node.output[0] not in unpacking)
    skeleton.graph.input.extend(graph.input)
    skeleton.graph.output.extend(graph.output)
    for port in skeleton.graph.output:
        port.type.tensor_type.ClearField("shape")
    for tensor in graph.initializer:
        if math.prod(tensor.dims) > folding.LARGE:
            skeleton.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            skeleton.graph.initializer.append(tensor)
    for name, weight in weights.items():  # inference would follow their positions one by one
        skeleton.graph.initializer.add(name=name, data_type=weight.kind, dims=weight.shape)
    for sparse in graph.sparse_initializer:  # inference does not follow them
        skeleton.graph.initializer.add(name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims)
    return skeleton


def _close_axes(graph: onnx.GraphProto, sizes: Mapping[str, tuple[int, ...]]) -> int:
    """Give every open axis of the inputs a length: that in `sizes`, also for axes of the same name, and 1 for the batch;
    returns the batch. Unknown where an axis stays open."""
    initial = {tensor.name for tensor in graph.initializer}
    ports = [port for port in graph.input if port.name not in initial]
    lengths = _named_lengths(ports, sizes)
    batches: set[int] = set()
    for port in ports:
        axes = port.type.tensor_type.shape.dim
        for position, axis in enumerate(axes):
            if axis.HasField("dim_value"):  # 0 too: a past without tokens
                continue
            length = sizes[port.name][position] if port.name in sizes else lengths.get(axis.dim_param)
            if length is not None:
                axis.dim_value = length  # clears the axis' name
        if axes and not axes[0].dim_value:
            axes[0].dim_value = 1
        batches.update(axis.dim_value for axis in axes[:1])
        if any(not axis.HasField("dim_value") for axis in axes):
            raise Unknown(f"input '{port.name}' has an open axis besides the batch")
    return batches.pop() if len(batches) == 1 else 1


def _named_lengths(ports: list[onnx.ValueInfoProto], sizes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Name of an open axis -> its length in `sizes`; Unknown where a shape, but for the batch, does not fit its input."""
    lengths = {}
    for port in ports:
        axes, shape = port.type.tensor_type.shape.dim, sizes.get(port.name)
        if shape is None:
            continue
        fixed = [(axis.dim_value, size) for axis, size in zip(axes, shape, strict=False) if axis.HasField("dim_value")]
        fixed = fixed[1:] if axes and axes[0].HasField("dim_value") else fixed  # a file that insists on a batch gets it
        if len(shape) != len(axes) or any(length != size for length, size in fixed):
            raise Unknown(f"input '{port.name}' can't have the shape {'x'.join(map(str, shape))}")
        lengths.update({axis.dim_param: size for axis, size in zip(axes, shape, strict=True) if axis.dim_param})
    return lengths


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    try:
        return shape_inference.infer_shapes(model, data_prop=True).graph
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        if "bad_alloc" in reason:
            raise MemoryError(reason) from None
        raise Unknown(f"its shapes can't be inferred ({reason})") from None


def _apply_rules(graph: onnx.GraphProto, known: dict[str, Shape], kinds: dict[str, int]) -> bool:
    """Add the shapes that inference does not follow: of ONNX Runtime's own operators, and of long ranges; whether there was
    a new one."""
    added = False
    for node, length in folding.ranges(graph):
        if None in known.get(node.output[0], (None,)):
            graph.value_info.append(helper.make_tensor_value_info(node.output[0], TensorProto.INT64, (length,)))
            added = True
    for node in graph.node:
        if node.domain != contrib.MICROSOFT or None not in known.get(node.output[0], (None,)):
            continue
        try:
            result = contrib.result(node, partial(_whole_shape, known, node), partial(_kind, kinds, node))
        except (LookupError, ValueError, TypeError):
            continue  # its inputs are not known, in this round at least
        if result is not None:
            shape, kind = result
            graph.value_info.append(helper.make_tensor_value_info(node.output[0], kind, shape))
            added = True
    return added


def _whole_shape(known: dict[str, Shape], node: onnx.NodeProto, position: int) -> tuple[int, ...]:
    axes = tuple(axis for axis in known[node.input[position]] if axis is not None)
    if len(axes) < len(known[node.input[position]]):
        raise LookupError(node.input[position])
    return axes


def _kind(kinds: dict[str, int], node: onnx.NodeProto, position: int) -> int:
    return kinds[node.input[position]]

"""The preparation of pictures that an ONNX file from elsewhere expects, as the first nodes of its graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compress_cli.data.preprocess import Preprocess
from compress_cli.errors import RecipeError

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
GEOMETRY, VALUES = ("size", "resize", "crop"), ("colour", "scale", "mean", "std", "layout")
RESIZE, SLICE = 18, 10  # the opsets from which Resize uses the filter of picture libraries, and Slice takes its ends as inputs

CONSTANTS_APART = 4  # the version of the file format from which constants are no inputs


def prepend(model: onnx.ModelProto, name: str, shape: tuple[int, ...], preprocess: Preprocess, path: Path) -> None:
    """Make the input `name` take raw pictures (N, channels, height, width) as float32, and preprocess them inside the graph.

    `shape` is that of a picture. The model is of the opset that `needed_opset` says, or a later one. RecipeError where the
    graph can't hold the preparation.
    """
    port = next(value for value in model.graph.input if value.name == name)
    kind = port.type.tensor_type.elem_type
    if kind not in FLOATS:
        dtype = onnx.TensorProto.DataType.Name(kind).lower()
        raise RecipeError(
            f"preprocess: {path} takes {name} as {dtype}, and prepared pictures are real numbers; leave preprocess out, or "
            "export the file with a float input"
        )
    _check_fields(preprocess)
    _check_channels(preprocess, shape[0])
    _check_shape(port, _output_shape(preprocess, shape), path)
    nodes = _Nodes(name, port)
    resized, corner, cut = _geometry(preprocess, shape)
    if resized != shape[1:]:
        # As picture libraries shrink and enlarge; values of bytes come out unrounded, within one grey level of theirs.
        nodes.add("Resize", None, None, np.array(resized), axes=[2, 3], antialias=1, mode="linear")
    if cut != resized:
        nodes.add("Slice", np.array(corner), np.array(corner) + cut, np.array([2, 3]))
    if preprocess.colour == "bgr":
        nodes.add("Gather", np.arange(shape[0])[::-1].copy(), axis=1)
    mean, deviation = np.asarray(preprocess.mean or (0.0,)) / preprocess.scale, np.asarray(preprocess.std or (1.0,))
    if mean.any():
        nodes.add("Sub", mean.astype(np.float32).reshape(-1, 1, 1))
    factor = preprocess.scale / deviation
    if (factor != 1).any():
        nodes.add("Mul", factor.astype(np.float32).reshape(-1, 1, 1))
    if preprocess.layout == "nhwc":
        nodes.add("Transpose", perm=[0, 2, 3, 1])
    if kind != onnx.TensorProto.FLOAT:
        nodes.add("Cast", to=kind)
    model.ir_version = max(model.ir_version, CONSTANTS_APART)
    nodes.insert(model.graph, shape)


def needed_opset(shape: tuple[int, ...], preprocess: Preprocess) -> int:
    """The opset that can prepare pictures of this shape."""
    resized, _, cut = _geometry(preprocess, shape)
    return RESIZE if resized != shape[1:] else SLICE if cut != resized else 0


def _check_fields(preprocess: Preprocess) -> None:
    """RecipeError for a setting that no ONNX node here can express."""
    for name, field in type(preprocess).model_fields.items():
        if name not in (*GEOMETRY, *VALUES) and getattr(preprocess, name) != field.default:
            raise RecipeError(f"preprocess.{name}: can't become part of an ONNX graph; prepare the dataset instead")


def _geometry(preprocess: Preprocess, shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """(height, width) that pictures are resized to, (top, left) of the crop, (height, width) of the crop."""
    plain = preprocess.model_copy(update={name: type(preprocess).model_fields[name].default for name in VALUES})
    height, width = plain.model_copy(update={"crop": None}).apply(np.zeros((1, *shape), np.uint8)).shape[2:]
    rows, columns = np.indices((height, width), np.float32)  # each pixel's place
    cut = plain.model_copy(update={"size": None, "resize": None}).apply(np.stack([rows, columns])[None])
    top, left = cut[0, :, 0, 0].astype(int)
    return (height, width), (int(top), int(left)), (cut.shape[2], cut.shape[3])


def _output_shape(preprocess: Preprocess, shape: tuple[int, ...]) -> tuple[int, ...]:
    return preprocess.apply(np.zeros((1, *shape), np.uint8)).shape[1:]


def _check_channels(preprocess: Preprocess, channels: int) -> None:
    for field, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if values and len(values) not in (1, channels):
            raise RecipeError(f"preprocess.{field}: has {len(values)} values for pictures of {channels} channels")


def _check_shape(port: onnx.ValueInfoProto, prepared: tuple[int, ...], path: Path) -> None:
    """RecipeError where prepared pictures would have another shape than the file takes."""
    taken = [axis.dim_value or None for axis in port.type.tensor_type.shape.dim[1:]]
    if len(taken) != 3 or any(axis not in (None, size) for axis, size in zip(taken, prepared, strict=True)):
        raise RecipeError(
            f"preprocess: makes pictures of the shape {prepared}, and {path} takes {port.name} "
            f"({', '.join(str(axis or '?') for axis in taken)}) for each sample; set size, crop or layout"
        )


class _Nodes:
    """A chain of nodes from a raw input to the value that the graph took so far."""

    def __init__(self, name: str, port: onnx.ValueInfoProto):
        self._name, self._port = name, port
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *constants: np.ndarray | None, **attributes: Any) -> None:
        """One more node; its first input is the node before, then come the constants (None: left out)."""
        label = f"{self._name}_{operator.lower()}"
        names = [f"{label}_{position}" if value is not None else "" for position, value in enumerate(constants)]
        pairs = zip(names, constants, strict=True)
        self._constants += [numpy_helper.from_array(value, name) for name, value in pairs if value is not None]
        before = self._nodes[-1].output[0] if self._nodes else self._name
        self._nodes.append(helper.make_node(operator, [before, *names], [f"{label}_output"], name=label, **attributes))

    def insert(self, graph: onnx.GraphProto, shape: tuple[int, ...]) -> None:
        """Put the chain before all other nodes; the input keeps its name and its first axis."""
        if not self._nodes:
            return
        prepared = f"{self._name}_prepared"
        self._nodes[-1].output[0] = prepared
        for node in _all_nodes(graph):
            node.input[:] = [prepared if value == self._name else value for value in node.input]
        first = self._port.type.tensor_type.shape.dim[0]
        batch = first.dim_param or (first.dim_value if first.HasField("dim_value") else None)
        raw = helper.make_tensor_value_info(self._name, onnx.TensorProto.FLOAT, (batch, *shape))
        self._port.CopyFrom(raw)
        others = list(graph.node)
        graph.ClearField("node")
        graph.node.extend([*self._nodes, *others])
        graph.initializer.extend(self._constants)


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the bodies of its If, Loop and Scan nodes, which may read outer values."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _all_nodes(body)

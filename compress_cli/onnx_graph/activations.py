"""How much memory the values between operators take."""

from __future__ import annotations

import math
from collections import Counter

import onnx
from onnx import TensorProto, helper

from compress_cli.onnx_graph import graph
from compress_cli.onnx_graph.graph import Unknown

VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "DequantizeLinear"}
"""Operators whose result takes no memory of its own. DequantizeLinear is one since runtimes fuse it: the operator after it
reads the integers."""
BITS: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2}


def peak_bytes(model: onnx.ModelProto) -> int:
    """The most that lives at once for one sample, by the file's order of nodes; Unknown says why it can't be told.

    A value lives from the node that makes it until the last that takes it; inputs and outputs as long as the run. Weights,
    and what comes of weights alone, are not counted; nor is what kernels need for themselves. A value that is only rounded
    to integers is counted as these. Real runtimes also write results over their inputs where they can.
    """
    found = graph.shapes(model)
    if any(node.op_type in graph.BRANCHING for node in model.graph.node):
        raise Unknown("what a branch or a loop keeps depends on the data")
    size, alias = _sizes(model, found), _aliases(model)
    ends: dict[str, int] = {}
    for place, node in enumerate(model.graph.node):
        ends.update({alias.get(name, name): place for name in node.input if alias.get(name, name) in size})
    last = len(model.graph.node)
    ends.update({alias.get(each.name, each.name): last for each in (*model.graph.input, *model.graph.output)})
    live = sum(size.get(each.name, 0) for each in model.graph.input)
    dying = Counter(dict.fromkeys(range(last + 1), 0))
    most = live
    for place, node in enumerate(model.graph.node):
        for name in node.output:
            if name in size and alias.get(name, name) == name:
                live += size[name]
                dying[ends.get(name, place)] += size[name]
        most = max(most, live)
        live -= dying[place]
    return math.ceil(most / found.batch)


def _sizes(model: onnx.ModelProto, found: graph.Shapes) -> dict[str, int]:
    """Bytes of every value that depends on the inputs."""
    moving = {each.name for each in model.graph.input} - {each.name for each in model.graph.initializer}
    users = Counter(name for node in model.graph.node for name in node.input)
    sizes, made = {name: _bytes(name, found) for name in moving}, set[str]()
    for node in model.graph.node:
        if moving.intersection(node.input):
            made.update(name for name in node.output if name)
            moving |= made
            sizes.update({name: _bytes(name, found) for name in node.output if name})
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in sizes and users[node.input[0]] == 1 and node.input[0] in made:
            sizes[node.input[0]] = 0  # of the two only the integers are there
    return sizes


def _aliases(model: onnx.ModelProto) -> dict[str, str]:
    """View -> the value whose memory it shows."""
    alias: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in VIEWS and node.input:
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
    return alias


def _bytes(name: str, found: graph.Shapes) -> int:
    shape, kind = found.shapes.get(name, (None,)), found.kinds.get(name, TensorProto.UNDEFINED)
    known = [axis for axis in shape if axis is not None]
    if len(known) < len(shape) or kind in (TensorProto.UNDEFINED, TensorProto.STRING):
        raise Unknown(f"the shape of '{name}' can't be inferred")
    bits = BITS.get(kind) or 8 * helper.tensor_dtype_to_np_dtype(kind).itemsize
    return math.ceil(math.prod(known) * bits / 8)

"""Operators of a PyTorch graph without an integer kernel, written as ones that have it, where both give the same."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

ATEN = torch.ops.aten
CONSTANT = "_twin_constant"
"""Begins the names of the buffers that hold constants: as operands they are rounded like other values."""


def write(model: GraphModule) -> None:
    """Replace SiLU by a sigmoid and a product, hard swish and hard sigmoid by sums, limits and products, and the mean over a
    picture by pooling."""
    rewrites: dict[Any, Callable[[GraphModule, Node], Node | None]] = {
        ATEN.silu.default: _silu, ATEN.silu_.default: _silu,
        ATEN.hardswish.default: _hard_swish, ATEN.hardswish_.default: _hard_swish,
        ATEN.hardsigmoid.default: _hard_sigmoid, ATEN.hardsigmoid_.default: _hard_sigmoid,
        ATEN.mean.dim: _mean, ATEN.adaptive_avg_pool2d.default: _to_one,
    }  # fmt: skip
    for node in list(model.graph.nodes):
        rewrite = rewrites.get(node.target) if node.op == "call_function" else None
        twin = rewrite(model, node) if rewrite else None
        if twin is not None:
            node.replace_all_uses_with(twin)
            model.graph.erase_node(node)
    model.graph.lint()
    model.recompile()


def is_product(node: Node) -> bool:
    """Whether it is the product of a value and a constant that was written here, in this order."""
    factor = node.args[1] if node.target is ATEN.mul.Tensor else None
    return isinstance(factor, Node) and factor.op == "get_attr" and str(factor.target).startswith(CONSTANT)


def absorb(converted: GraphModule) -> None:
    """Products of integers and a constant become the same integers with other steps."""
    dequantize = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    for node in list(converted.graph.nodes):
        value: Any = node.args[0] if is_product(node) else None
        if isinstance(value, Node) and value.target is dequantize:
            codes, step, *others = tuple[Any, ...](value.args)
            factor = float(operator.attrgetter(str(node.args[1].target))(converted))
            with converted.graph.inserting_before(node):
                twin = converted.graph.call_function(dequantize, (codes, step * factor, *others))
            twin.meta = dict(node.meta)
            node.replace_all_uses_with(twin)
            for unused in (node, *node.all_input_nodes):
                if not unused.users:
                    converted.graph.erase_node(unused)
    converted.recompile()


def _silu(model: GraphModule, node: Node) -> Node:
    gate = _call(model, node, ATEN.sigmoid.default, node.args[0])
    return _call(model, node, ATEN.mul.Tensor, node.args[0], gate)


def _hard_swish(model: GraphModule, node: Node) -> Node:
    return _call(model, node, ATEN.mul.Tensor, node.args[0], _hard_sigmoid(model, node))


def _hard_sigmoid(model: GraphModule, node: Node) -> Node:
    shifted = _call(model, node, ATEN.add.Tensor, node.args[0], _constant(model, node, 3.0))
    clipped = _call(model, node, ATEN.clamp.default, shifted, 0, 6)
    return _call(model, node, ATEN.mul.Tensor, clipped, _constant(model, node, 1 / 6))


def _mean(model: GraphModule, node: Node) -> Node | None:
    shape = _shape(node.args[0])
    axes: Any = node.args[1]
    if len(shape) != 4 or not isinstance(axes, list | tuple) or {axis % 4 for axis in axes} != {2, 3} or "dtype" in node.kwargs:
        return None
    keeps = bool(node.args[2]) if len(node.args) > 2 else bool(node.kwargs.get("keepdim", False))
    return _pooled(model, node, shape, keeps)


def _to_one(model: GraphModule, node: Node) -> Node | None:
    shape = _shape(node.args[0])
    return _pooled(model, node, shape, True) if len(shape) == 4 and list(node.args[1]) == [1, 1] else None  # type: ignore[arg-type]


def _pooled(model: GraphModule, node: Node, shape: tuple[Any, ...], keeps: bool) -> Node | None:
    if not all(isinstance(size, int) for size in shape[2:]):
        return None
    pooled = _call(model, node, ATEN.avg_pool2d.default, node.args[0], [shape[2], shape[3]])
    return pooled if keeps else _call(model, node, ATEN.flatten.using_ints, pooled, 1)


def _call(model: GraphModule, node: Node, target: Any, *arguments: Any) -> Node:
    """One more operator before `node`, which belongs to the same module."""
    with model.graph.inserting_before(node):
        new = model.graph.call_function(target, arguments)
    new.meta = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace", "source_fn_stack") if key in node.meta}
    values = [argument.meta["val"] if isinstance(argument, Node) else argument for argument in arguments]
    new.meta["val"] = target(*values)  # on fake tensors: the shape
    return new


def _constant(model: GraphModule, node: Node, value: float) -> Node:
    name = f"{CONSTANT}{sum(1 for existing, _ in model.named_buffers() if existing.startswith(CONSTANT))}"
    model.register_buffer(name, torch.tensor([value]))
    with model.graph.inserting_before(node):
        new = model.graph.get_attr(name)
    example = node.meta["val"]
    new.meta["val"] = example.new_empty((1,)) if isinstance(example, Tensor) else None
    return new


def _shape(node: Any) -> tuple[Any, ...]:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()

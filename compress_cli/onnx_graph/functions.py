"""Functions that an ONNX file defines for itself: each call is replaced by the operators of its body."""

from __future__ import annotations

from functools import cache

import onnx
from onnx import inliner

from compress_cli.onnx_graph.graph import Unknown, bodies

LARGEST = 200_000
"""Operators that a graph may grow to: functions that call functions grow exponentially, in a file of a few hundred bytes."""
DEEPEST = 200  # calls inside calls


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without functions; Unknown where they call themselves or grow past any use."""
    if not model.functions:
        return model
    functions = {(function.domain, function.name): function for function in model.functions}

    @cache
    def operators(domain: str, name: str, depth: int) -> int:
        if depth > DEEPEST:
            raise Unknown(f"the function {name} calls functions more than {DEEPEST} deep, or itself")
        return sum(count(node, depth) for node in functions[domain, name].node)

    def count(node: onnx.NodeProto, depth: int) -> int:
        inner = sum(count(other, depth) for body in bodies(node) for other in body.node)
        is_call = (node.domain, node.op_type) in functions
        return inner + (operators(node.domain, node.op_type, depth + 1) if is_call else 1)

    total = sum(count(node, 0) for node in model.graph.node)
    if total > LARGEST:
        raise Unknown(f"its functions stand for {total} operators, more than {LARGEST}")
    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise Unknown(f"its functions can't be inlined ({str(error).partition(chr(10))[0][:200]})") from None

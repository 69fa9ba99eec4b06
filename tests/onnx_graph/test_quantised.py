"""What computes in float in a graph with quantise/dequantise pairs."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from compress_cli.onnx_graph import quantised

node = helper.make_node


def pair(name, result):
    """Rounded to integers and back."""
    return [
        node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]),
        node("DequantizeLinear", [f"{name}_q", "s", "z"], [result]),
    ]


def test_all_operators_that_compute_in_float_are_named_and_moves_are_not():
    nodes = [
        *pair("x", "xd"),
        node("DequantizeLinear", ["w_quantized", "s", "zw"], ["wd"]),
        node("MatMul", ["xd", "wd"], ["product"]),
        *pair("product", "pd"),
        node("LayerNormalization", ["pd", "norm.weight", "norm.bias"], ["normed"]),
        *pair("normed", "nd"),
        node("Shape", ["nd"], ["shape"]),
        node("Add", ["shape", "zeros"], ["same"]),  # of whole numbers
        node("Reshape", ["nd", "same"], ["turned"]),
        node("Gelu", ["turned"], ["gelu"]),
        node("Div", ["gelu", "s"], ["scaled"]),
        *pair("scaled", "sd"),
        node("Add", ["sd", "pd"], ["sum"]),
        *pair("sum", "ud"),
        node("Less", ["ud", "fill"], ["mask"]),
        node("Where", ["mask", "fill", "ud"], ["masked"]),  # of which the runtime rounds the fill by itself
        *pair("masked", "md"),
        node("MatMul", ["md", "plain.weight"], ["y"]),
    ]
    weights = {
        "s": np.float32(0.1), "z": np.uint8(0), "zw": np.int8(0), "w_quantized": np.ones((4, 4), np.int8),
        "norm.weight": np.ones(4, np.float32), "norm.bias": np.ones(4, np.float32), "zeros": np.zeros(2, np.int64),
        "plain.weight": np.ones((4, 4), np.float32), "fill": np.float32(-1),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert quantised.left_float(model) == [
        "norm.weight: LayerNormalization", "gelu: Gelu", "scaled: Div", "plain.weight: MatMul",
    ]  # fmt: skip

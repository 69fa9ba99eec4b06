"""Constants of every number type that ONNX knows can be counted and listed."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress_cli.onnx_graph import layers

KINDS = sorted(kind for kind in TensorProto.DataType.values() if kind != TensorProto.UNDEFINED)


@pytest.mark.parametrize(
    ("kind", "is_raw"), [(kind, False) for kind in KINDS] + [(TensorProto.BFLOAT16, True), (TensorProto.INT4, True)]
)
def test_a_constant_of_any_type_is_counted(tmp_path, kind, is_raw):
    if kind == TensorProto.STRING:
        weight = helper.make_tensor("w", kind, (2, 3), [b"a"] * 6)
    else:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        weight = helper.make_tensor("w", kind, (2, 3), np.array([0, 1, 1, 0, 1, 1]).astype(dtype))
        if is_raw:
            weight = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight), "w")
    graph = helper.make_graph(
        [helper.make_node("Cast", ["w"], ["c"], to=TensorProto.FLOAT), helper.make_node("MatMul", ["x", "c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, ("n", 2))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    onnx.save(model, tmp_path / "m.onnx")
    listing = layers.of_onnx(tmp_path / "m.onnx")
    name = {"float": "float32", "double": "float64"}.get(TensorProto.DataType.Name(kind).lower())
    assert listing.contents is not None
    (constant,) = listing.contents.largest
    assert constant.kind == (name or TensorProto.DataType.Name(kind).lower())
    if listing.parameters:
        assert (listing.parameters, listing.zeros) == (6, 0 if kind == TensorProto.FLOAT8E8M0 else 2)  # which has no 0
    if kind != TensorProto.STRING:
        assert constant.size_bytes == len(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight), "w").raw_data)

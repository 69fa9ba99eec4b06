"""Calibration reads samples and runs a file: each failure is that of whoever failed."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress_cli.errors import StageError
from compress_cli.quantization import ranges


@pytest.fixture
def product():
    weight = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_reader_that_fails_is_no_failure_of_the_runtime(product):
    def batches():
        yield {"x": np.ones((2, 3), np.float32)}
        raise KeyError("a row that is not there")

    with pytest.raises(KeyError, match="a row that is not there"):
        ranges.measure(product, ["x", "y"], batches(), "mine.onnx")


def test_a_sample_that_the_file_does_not_take_is(product):
    with pytest.raises(StageError, match=r"^mine.onnx: ONNX Runtime fails on it"):
        ranges.measure(product, ["y"], [{"x": np.ones((2, 4), np.float32)}], "mine.onnx")


def test_looking_into_a_model_leaves_it_as_it_was(product):
    inner = helper.make_node("Relu", ["y"], ["z"])
    product.graph.node.append(inner)
    product.graph.output[0].name = "z"
    before = product.SerializeToString(deterministic=True)
    (values,) = ranges.values(product, ["y", "z"], [{"x": -np.eye(3, dtype=np.float32)}])
    np.testing.assert_array_equal(values["y"], -np.eye(3))
    assert product.SerializeToString(deterministic=True) == before

"""The costliest node is the one with most work, and float islands are recognised."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from compress_cli.measurement.profile import profile, summary


def graph_of(nodes, weights, shape=("n", 64)):
    return helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )


def test_the_costliest_node_comes_first(tmp_path):
    rng = np.random.default_rng(0)
    weights = {f"w{position}": rng.random(shape, np.float32) for position, shape in enumerate([(64, 8), (8, 4096), (4096, 64)])}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "small"),
        helper.make_node("MatMul", ["a", "w1"], ["b"], "middle"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], "large"),
    ]
    made = helper.make_model(graph_of(nodes, weights), opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    save(made, tmp_path / "m.onnx")
    before = {*tmp_path.iterdir()}
    result = profile(tmp_path / "m.onnx", {"x": rng.random((64, 64), np.float32)}, 1)
    assert [node.name for node in result.nodes] == ["large", "middle", "small"]
    assert sum(node.time_ms for node in result.nodes) == pytest.approx(result.total_ms)
    assert result.operators == {"MatMul": pytest.approx(1)}
    assert (result.runs, result.islands) == (30, [])
    assert {*tmp_path.iterdir()} == before


def test_float_islands():
    """q -> conv (integers) -> dq -> [sigmoid -> mul] -> q -> conv -> dq -> softmax: what leads out is no island."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q0"),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["c"], "conv0"),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["d"], "dq0"),
        helper.make_node("Sigmoid", ["d"], ["e"], "sigmoid"),
        helper.make_node("Mul", ["d", "e"], ["f"], "mul"),
        helper.make_node("QuantizeLinear", ["f", "s", "z"], ["g"], "q1"),
        helper.make_node("QLinearConv", ["g", "s", "z", "w", "s", "z", "s", "z"], ["h"], "conv1"),
        helper.make_node("DequantizeLinear", ["h", "s", "z"], ["i"], "dq1"),
        helper.make_node("Softmax", ["i"], ["y"], "softmax"),
    ]
    weights = {"s": np.float32(1), "z": np.uint8(0), "w": np.ones((1, 1, 1, 1), np.int8)}
    took = {"q0": 1, "conv0": 10, "dq0": 2, "sigmoid": 8, "mul": 4, "q1": 3, "conv1": 10, "dq1": 1, "softmax": 1}
    times = {(node.name, node.op_type, 0): [took[node.name]] * 3 for node in nodes}
    result = summary(times, graph_of(nodes, weights, ("n", 1, 4, 4)))
    (island,) = result.islands
    assert sorted(island.nodes) == ["Mul mul", "Sigmoid sigmoid"]
    assert (island.time_ms, island.borders_ms) == (12, 5)
    assert island.share == pytest.approx(17 / 40)
    parts = [(part.name, part.operator, part.time_share, part.bytes_share) for part in result.floating]
    assert parts == [("sigmoid", "Sigmoid", 8 / 40, 0), ("mul", "Mul", 4 / 40, 0), ("softmax", "Softmax", 1 / 40, 0)]


def test_a_float_layer_is_called_after_its_weights_and_weighs_by_its_bytes():
    """300 bytes of int8, 100 of float; a graph without integers has no float parts."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q0"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dq0"),
        helper.make_node("MatMul", ["d", "fc.weight"], ["y"], "n7"),
    ]
    weights = {"s": np.float32(1), "z": np.uint8(0), "fc.weight": np.ones((5, 5), np.float32), "w": np.ones(295, np.int8)}
    times = {(node.name, node.op_type, 0): [1.0] for node in nodes}
    (part,) = summary(times, graph_of(nodes, weights)).floating
    assert (part.name, part.time_share, part.bytes_share) == ("fc.weight", pytest.approx(1 / 3), 0.25)
    assert summary({("n7", "MatMul", 0): [1.0]}, graph_of(nodes[2:], {"fc.weight": weights["fc.weight"]})).floating == []

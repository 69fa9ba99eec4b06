"""ONNX files without what no runtime reads."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress_cli.onnx_graph import files, quantised


def model():
    """x -> Relu -> MatMul(weight) -> QuantizeLinear -> DequantizeLinear -> y, with an exporter's leavings."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy")
    arrays = {"layer.weight": np.eye(2, dtype=np.float32), "a_scale": np.float32(0.5), "a_zero": np.uint8(3)}
    nodes = [
        helper.make_node("Relu", ["x"], ["a long name of a value"], name="relu node"),
        helper.make_node("MatMul", ["a long name of a value", "layer.weight"], ["product"]),
        helper.make_node("QuantizeLinear", ["product", "a_scale", "a_zero"], ["quantised"]),
        helper.make_node("DequantizeLinear", ["quantised", "a_scale", "a_zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [x], [y], [numpy_helper.from_array(np.asarray(each), name) for name, each in arrays.items()],
        value_info=[helper.make_tensor_value_info("product", TensorProto.FLOAT, [99])],
    )  # fmt: skip
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("unused", 1)], ir_version=10
    )
    made.graph.node[0].doc_string = "a stack trace"
    helper.set_model_props(made, {"pkg.torch": "much", "onnx.infer": "x", "compress.key": '"k"', "author": "me"})
    entry = made.graph.node[0].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.stack_trace", "File ..."
    return made


def test_strip_keeps_what_people_wrote_and_what_runs():
    made = model()
    files.strip(made)
    assert {each.key: each.value for each in made.metadata_props} == {"compress.key": '"k"', "author": "me"}
    assert [each.domain for each in made.opset_import] == [""]
    assert not made.graph.value_info
    assert not made.graph.node[0].metadata_props
    assert made.graph.node[0].doc_string == ""
    onnx.checker.check_model(made, full_check=True)


def test_short_names_leave_the_signature_and_kept_names():
    made = model()
    files.strip(made)
    files.shorten_names(made, keep={"layer.weight"})
    names = {each.name for each in made.graph.initializer} | {name for node in made.graph.node for name in node.output}
    assert "layer.weight" in names
    assert "y" in names
    assert all(len(each) <= 2 for each in names - {"layer.weight"})
    assert len(names) == 7  # none is taken twice
    onnx.checker.check_model(made, full_check=True)


def test_short_names_never_take_one_that_is_kept():
    made = model()
    made.graph.initializer[0].name = "v1"
    made.graph.node[1].input[1] = "v1"
    files.shorten_names(made, keep={"v1"})
    outputs = [name for node in made.graph.node for name in node.output]
    assert "v1" not in outputs
    assert len(set(outputs)) == len(outputs)


def test_the_same_model_gives_the_same_bytes_and_metadata_is_sorted(tmp_path):
    for name, metadata in (("a.onnx", {"z": "1", "b": "2"}), ("b.onnx", {"b": "2", "z": "1"})):
        made = model()
        files.strip(made)
        files.write(made, tmp_path / name, metadata)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    written = {each.key: each.value for each in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert written["z"] == "1"
    assert written["author"] == "me"


def test_an_invalid_graph_is_not_written(tmp_path):
    made = model()
    files.strip(made)
    made.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(onnx.checker.ValidationError):
        files.write(made, tmp_path / "a.onnx", {})
    assert not (tmp_path / "a.onnx").exists()


def test_heads_give_float():
    made = model()
    quantised.open_heads(made)
    assert [node.op_type for node in made.graph.node] == ["Relu", "MatMul"]
    assert made.graph.node[-1].output[0] == "y"
    assert [each.name for each in made.graph.initializer] == ["layer.weight"]


def test_a_head_that_is_used_elsewhere_stays():
    made = model()
    made.graph.node.append(helper.make_node("Relu", ["product"], ["z"]))
    quantised.open_heads(made)
    assert files.operators(made)["DequantizeLinear"] == 1


def test_preparation_of_the_inputs_is_told_from_the_rest():
    made = model()
    for number, node in enumerate(made.graph.node):
        node.name = f"n{number}"
    assert quantised.to_leave_float(made) == ["n0"]
    assert quantised.left_float(made) == ["a long name of a value: Relu", "layer.weight: MatMul"]


def test_new_names_reach_into_branches_and_other_values_give_way():
    """x is called picture, although a value inside is called so; y is called label. A branch of the If means x too."""
    inner = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branches = {
        name: helper.make_graph([helper.make_node(operator, ["x"], ["inner"])], name, [], [inner])
        for name, operator in (("then_branch", "Neg"), ("else_branch", "Abs"))
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["picture"], keepdims=0),
        helper.make_node("Less", ["picture", "zero"], ["negative"]),
        helper.make_node("If", ["negative"], ["chosen"], **branches),
        helper.make_node("Add", ["chosen", "x"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(np.float32(0), "zero")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    files.rename(made, {"x": "picture", "y": "label"})
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    for rows in ([[1.0, -3.0]], [[3.0, -1.0]]):
        given = np.array(rows, np.float32)
        (found,) = session.run(["label"], {"picture": given})
        np.testing.assert_array_equal(found, given + (-given if given.sum() < 0 else np.abs(given)))

"""Filled channels of first convolutions: the same numbers, counts and names, other kernels."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress_cli.onnx_graph import alignment, expansion, files, layers

node = helper.make_node
RNG = np.random.default_rng(0)


def integers(*shape):
    return RNG.integers(-127, 128, shape).astype(np.int8)


def network(weights, group=1, weight_zero=0, kind=np.uint8, readers=1):
    """Pictures -> [quantise] -> convolution with these weights -> ReLU -> [quantise] -> max pooling -> convolution to 16
    channels; the first convolution stands there `readers` times, and its results are added."""
    outputs, channels, *kernel = weights.shape
    steps = np.linspace(0.01, 0.02, outputs, dtype=np.float32)
    constants = {
        "xs": np.float32(0.05), "xz": kind(100), "ys": np.float32(4), "yz": kind(0),
        "w": weights, "ws": steps, "wz": np.full(outputs, weight_zero, weights.dtype),
        "b": RNG.integers(-999, 999, outputs).astype(np.int32),
        "bs": np.float32(0.05) * steps, "bz": np.zeros(outputs, np.int32),
        "v": integers(16, outputs, *[1] * len(kernel)), "vs": np.full(16, 0.01, np.float32), "vz": np.zeros(16, np.int8),
    }  # fmt: skip
    sums = [f"c{number}" for number in range(readers)]
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]), node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], axis=0),
        *(node("Conv", ["xd", "wd", "bd"], [name], group=group, pads=[1] * 2 * len(kernel)) for name in sums),
        node("Sum", sums, ["c"]) if readers > 1 else node("Relu", sums, ["c"]),
        node("QuantizeLinear", ["c", "ys", "yz"], ["yq"]), node("DequantizeLinear", ["yq", "ys", "yz"], ["yd"]),
        node("DequantizeLinear", ["v", "vs", "vz"], ["vd"], axis=0), node("Conv", ["yd", "vd"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", channels * group, *[9] * len(kernel)))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 16, *(12 - size for size in kernel)))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model, path, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
    """What it gives for random pictures, and the graph that ONNX Runtime made of it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.graph_optimization_level = 4, 1, level
    options.optimized_model_filepath = str(path)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape[1:]
    pictures = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32) * 4
    return session.run(None, {"x": pictures})[0], onnx.load(path).graph


@pytest.mark.parametrize(
    "shape", [(16, 3, 3, 3), (32, 1, 3, 3), (20, 2, 5, 5), (16, 5, 1, 1), (16, 3, 9), (64, 3, 4, 4)], ids=str
)
def test_filled_channels_change_no_bit_and_reach_the_kernel(shape, tmp_path):
    plain = network(integers(*shape))
    aligned = copy.deepcopy(plain)
    assert alignment.align(aligned) == 1
    onnx.checker.check_model(aligned, full_check=True)
    (expected, _), (result, graph) = (run(model, tmp_path / "optimised.onnx") for model in (plain, aligned))
    assert np.ptp(expected) > 1
    np.testing.assert_array_equal(result, expected)
    first = next(part for part in graph.node if part.op_type == "QLinearConv")
    stored = next(tensor for tensor in graph.initializer if tensor.name == first.input[3])
    assert stored.dims[1] % 4 == 0
    assert [part.op_type for part in graph.node].count("Pad") == 1  # of the pictures; the weights' is done on opening
    unoptimised, _ = run(aligned, tmp_path / "same.onnx", onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    np.testing.assert_allclose(unoptimised, expected, atol=0.05 * np.ptp(expected))


@pytest.mark.parametrize(
    "model",
    [
        network(integers(16, 4, 3, 3)),  # a multiple of four already
        network(integers(8, 3, 3, 3)),  # too few outputs for the kernel
        network(integers(18, 3, 3, 3)),  # no multiple of four
        network(integers(16, 1, 3, 3), group=16),
        network(integers(32, 1, 9, 9)),  # three times the products
        network(integers(16, 3, 3, 3), weight_zero=1),
        network(integers(16, 3, 3, 3).view(np.uint8)),
        network(integers(16, 3, 3, 3), kind=np.int8),
    ],
    ids=["four", "few", "eighteen", "depthwise", "wide", "asymmetric", "unsigned weights", "signed values"],
)
def test_what_gains_nothing_stays_as_it_is(model):
    before = model.SerializeToString()
    assert alignment.align(model) == 0
    assert model.SerializeToString() == before


def test_only_the_first_convolution_is_filled_where_two_would_fit():
    model = network(integers(18, 4, 3, 3))  # 18 channels go into the second
    assert alignment.align(model) == 0
    model = network(integers(16, 3, 3, 3))
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", 12)])
    assert alignment.align(model) == 0  # which pads no integers


def test_two_convolutions_of_one_picture_share_what_is_filled(tmp_path):
    plain = network(integers(16, 3, 3, 3), readers=2)
    aligned = copy.deepcopy(plain)
    assert alignment.align(aligned) == 2
    assert [part.op_type for part in aligned.graph.node].count("Pad") == 2
    (expected, _), (result, _) = (run(model, tmp_path / "optimised.onnx") for model in (plain, aligned))
    np.testing.assert_array_equal(result, expected)


def test_a_filled_file_has_the_counts_and_names_of_the_plain_one(tmp_path, monkeypatch):
    """By hand: 16 weights of 3 x 3 x 3 at 9 x 9 places, then 16 of 16 there."""
    plain = network(integers(16, 3, 3, 3))
    aligned = copy.deepcopy(plain)
    alignment.align(aligned)
    listings = []
    monkeypatch.setattr(expansion.limits, "bounded", lambda path, call: call())  # in this process
    for name, model in (("plain", plain), ("aligned", aligned)):
        onnx.save(model, tmp_path / f"{name}.onnx")
        listings.append(layers.of_onnx(tmp_path / f"{name}.onnx"))
    for listing in listings:
        assert listing.macs == 81 * (16 * 27 + 16 * 16)
        assert listing.parameters == 16 * 27 + 16 + 16 * 16
        assert [(layer.name, layer.shapes[0], layer.macs) for layer in listing.layers] == [
            ("w", [16, 3, 3, 3], 81 * 16 * 27), ("v", [16, 16, 1, 1], 81 * 256),
        ]  # fmt: skip
    assert listings[0].zeros == listings[1].zeros
    assert not expansion._grows(aligned.graph)  # so that opening it takes no process of its own


def test_a_constant_that_is_filled_far_up_gets_the_closer_look():
    model = network(integers(16, 3, 3, 3))
    alignment.align(model)
    margins = next(tensor for tensor in model.graph.initializer if tensor.dims == [8] and tensor.data_type == TensorProto.INT64)
    margins.CopyFrom(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 1, 0, 2**20]), margins.name))
    assert expansion._grows(model.graph)
    margins.raw_data = margins.raw_data[:-3]
    assert expansion._grows(model.graph)


def test_attributes_that_are_defaults_go_and_others_stay():
    model = network(integers(16, 3, 3, 3))
    nodes = {part.output[0]: part for part in model.graph.node}
    nodes["xq"].attribute.extend([helper.make_attribute("axis", 1), helper.make_attribute("saturate", 0)])
    nodes["c0"].attribute.extend([helper.make_attribute("auto_pad", "NOTSET"), helper.make_attribute("strides", [2, 2])])
    files.drop_defaults(model)
    left = {name: {entry.name for entry in part.attribute} for name, part in nodes.items() if part.attribute}
    assert left == {"xq": {"saturate"}, "wd": {"axis"}, "bd": {"axis"}, "vd": {"axis"}, "c0": {"pads", "strides"}}

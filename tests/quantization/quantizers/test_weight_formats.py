"""Quantizers of weights alone: files that any ONNX Runtime loads, smaller by what the format promises."""

import numpy as np
import onnx
import pytest

from compress_cli.errors import RecipeError, StageError
from compress_cli.onnx_graph import contents, layers, packing
from compress_cli.quantization.quantizers import Quantizer
from tests.quantization.small_files import convolutions, images, model, node, normal, run, sqnr_db

FORMATS = [  # settings, bits in the file, least signal over noise in dB
    ("linear", {"bits": 3}, 4, 8), ("linear", {"bits": 4}, 4, 14), ("linear", {"bits": 8}, 8, 38),
    ("linear", {"bits": 12}, 16, 60), ("power_of_two", {"bits": 8}, 8, 35), ("logarithmic", {}, 4, 11),
    ("companded", {}, 4, 14), ("codebook", {}, 4, 14),
    ("codebook", {"bits": 1}, 1, 2), ("ternary", {}, 2, 3), ("binary", {}, 1, 1), ("weight_only", {}, 4, 14),
    ("weight_only", {"bits": 8, "block": 16}, 8, 38), ("float16", {}, 16, 60), ("float16", {"computing": True}, 16, 50),
    ("bfloat16", {}, 16, 42),
]  # fmt: skip


def wide(opset=17):
    """A linear network whose weights are most of the file."""
    constants = {"a.weight": normal(64, 512), "a.bias": normal(512, seed=1), "b.weight": normal(10, 512, seed=2, scale=0.1)}
    nodes = [
        node("Gemm", ["x", "a.weight", "a.bias"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "b.weight", "zero"], ["y"], transB=1),
    ]
    constants["zero"] = np.zeros(10, np.float32)
    return model(nodes, constants, {"x": ("n", 64)}, {"y": ("n", 10)}, opset)


def quantise(proto, tmp_path, quantizer, settings, feeds):
    before, after = tmp_path / "float.onnx", tmp_path / "small.onnx"
    onnx.helper.set_model_props(proto, {"compress.key": '"k"'})
    onnx.save(proto, before)
    made = Quantizer.model_validate({"type": quantizer, **settings})
    facts = made.quantize_onnx(before, "float.onnx", [feeds], after)
    return run(before, feeds)[0], *run(after, feeds), facts, before.stat().st_size / after.stat().st_size


@pytest.mark.parametrize("opset", [9, 13, 21])
@pytest.mark.parametrize(("quantizer", "settings", "bits", "least"), FORMATS)
def test_a_file_shrinks_with_its_bits_and_computes_nearly_the_same(quantizer, settings, bits, least, opset, tmp_path):
    feeds = {"x": normal(32, 64, seed=9)}
    (expected,), (result,), operators, facts, ratio = quantise(wide(opset), tmp_path, quantizer, settings, feeds)
    assert sqnr_db(expected, result) > least
    assert 4 * 37888 / ratio < 37888 * bits / 8 + 9000  # scales, the bias, tables and the graph
    assert not {"DequantizeLinear", "Gather"} & set(operators)  # decoded once, when the session starts
    assert [entry["layer"] for entry in facts["layers"]] == ["a", "b"]
    assert facts["left_float"] == []
    held = contents.contents(tmp_path / "small.onnx")
    assert held.parameters in (37888 + 512 + 10, 37888 + 512)  # the bias of zeros may be left out
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "small.onnx").metadata_props}
    assert metadata == {"compress.key": '"k"'}


@pytest.mark.parametrize(("quantizer", "settings"), [(name, settings) for name, settings, *_ in FORMATS])
def test_a_layer_may_stay_float(quantizer, settings, tmp_path):
    feeds = {"x": normal(4, 64, seed=9)}
    settings = {**settings, "overrides": [{"layers": "a", "weights": "float"}]}
    _, _, _, facts, _ = quantise(wide(), tmp_path, quantizer, settings, feeds)
    assert [entry["layer"] for entry in facts["layers"]] == ["b"]
    assert facts["left_float"] == ["a: Gemm"]
    kinds = contents.contents(tmp_path / "small.onnx").kinds
    assert kinds["float32"] >= 64 * 512


def test_layers_of_other_bits(tmp_path):
    feeds = {"x": normal(4, 64, seed=9)}
    settings = {"bits": 8, "overrides": [{"layers": "*", "weights": 4}, {"layers": "b", "weights": 6}]}
    facts = quantise(wide(), tmp_path, "linear", settings, feeds)[3]
    assert [entry["weight_bits"] for entry in facts["layers"]] == [4, 6]


def test_a_pattern_that_fits_nothing_is_refused(tmp_path):
    for quantizer in ("linear", "float16", "bfloat16", "dynamic_int8", "auto"):
        settings = {"overrides": [{"layers": "head", "weights": "float"}]}
        with pytest.raises(RecipeError, match="no layer is called 'head'"):
            quantise(wide(), tmp_path, quantizer, settings, {"x": normal(4, 64)})


def test_changing_nothing_is_a_failure(tmp_path):
    for quantizer in ("linear", "bfloat16", "dynamic_int8"):
        with pytest.raises(StageError, match="nothing was quantised"):
            quantise(wide(), tmp_path, quantizer, {"overrides": [{"layers": "*", "weights": "float"}]}, {"x": normal(4, 64)})


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    proto = wide()
    broken = normal(64, 512)
    broken[3, 3] = np.nan
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(broken, "a.weight"))
    with pytest.raises(StageError, match="weights of 'a' hold NaN"):
        quantise(proto, tmp_path, "linear", {}, {"x": normal(4, 64)})


def test_half_precision_refuses_what_it_can_not_hold(tmp_path):
    proto = wide()
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(normal(64, 512) * 1e5, "a.weight"))
    with pytest.raises(StageError, match="weights of 'a' are above 65504"):
        quantise(proto, tmp_path, "float16", {}, {"x": normal(4, 64)})
    (expected,), (result,), *_ = quantise(proto, tmp_path, "bfloat16", {}, {"x": normal(4, 64)})
    assert sqnr_db(expected, result) > 40


def test_computing_in_bfloat16_is_refused_by_name():
    with pytest.raises(ValueError, match="don't compute in bfloat16"):
        Quantizer.model_validate({"type": "bfloat16", "computing": True})


def test_a_quantised_file_is_refused(tmp_path):
    quantise(convolutions(), tmp_path, "static_int8", {}, images())
    for quantizer in ("linear", "float16", "dynamic_int8", "auto"):
        made = Quantizer.model_validate(quantizer)
        with pytest.raises(StageError, match=r"is quantised already \(it holds QuantizeLinear\)"):
            made.quantize_onnx(tmp_path / "small.onnx", "x", [images()], tmp_path / "again.onnx")


def tokens():
    """An embedding, an LSTM, a GRU and a linear layer: (n, 5) -> (n, 7)."""
    constants = {
        "embedding.weight": normal(100, 32), "lstm.W": normal(1, 64, 32, scale=0.3),
        "lstm.R": normal(1, 64, 16, seed=1, scale=0.3),
        "gru.W": normal(1, 48, 16, seed=2, scale=0.3), "gru.R": normal(1, 48, 16, seed=3, scale=0.3),
        "fc.weight": normal(16, 7, seed=4), "axes": np.array([1]), "last": np.array([0]),
    }  # fmt: skip
    nodes = [
        node("Gather", ["embedding.weight", "ids"], ["e"]), node("Transpose", ["e"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "lstm.W", "lstm.R"], ["hs"], hidden_size=16), node("Squeeze", ["hs", "axes"], ["h"]),
        node("GRU", ["h", "gru.W", "gru.R"], ["", "g"], hidden_size=16), node("Squeeze", ["g", "last"], ["s"]),
        node("MatMul", ["s", "fc.weight"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, constants, {}, {"y": ("n", 7)})
    proto.graph.input.append(onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ("n", 5)))
    return proto, {"ids": np.random.default_rng(0).integers(0, 100, (16, 5))}


@pytest.mark.parametrize("quantizer", ["dynamic_int8", "auto"])
def test_dynamic_ranges_for_embeddings_recurrent_layers_and_products(quantizer, tmp_path):
    proto, feeds = tokens()
    (expected,), (result,), operators, facts, ratio = quantise(proto, tmp_path, quantizer, {}, feeds)
    assert {"DynamicQuantizeLSTM", "GRU"} <= set(operators)
    assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} & set(operators)
    assert sqnr_db(expected, result) > 25
    assert ratio > 2.5
    assert facts["left_float"] == ["gru.W: GRU", "gru.R: GRU"] or facts["left_float"] == ["gru: GRU", "gru.R: GRU"]
    assert all(entry["weight_bits"] == 8 for entry in facts["layers"])
    assert facts.get("mode", "dynamic_int8") == "dynamic_int8"


def test_auto_takes_dynamic_ranges_for_recurrent_layers_below_a_wide_head(tmp_path):
    proto, feeds = tokens()
    wide_head = onnx.numpy_helper.from_array(normal(16, 512), "fc.weight")
    next(tensor for tensor in proto.graph.initializer if tensor.name == "fc.weight").CopyFrom(wide_head)
    proto.graph.node[-1].op_type = "Gemm"
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("n", 512)))
    (expected,), (result,), operators, facts, _ = quantise(proto, tmp_path, "auto", {}, feeds)
    assert facts["mode"] == "dynamic_int8"
    assert "DynamicQuantizeLSTM" in operators
    assert sqnr_db(expected, result) > 25


@pytest.mark.parametrize("quantizer", ["dynamic_int8", "auto", "weight_only"])
def test_a_model_of_embeddings_alone_becomes_integers(quantizer, tmp_path):
    """As a factorization machine has them: the product of two vectors, and no linear layer."""
    nodes = [
        node("Gather", ["users.weight", "user"], ["u"]), node("Gather", ["items.weight", "item"], ["i"]),
        node("Mul", ["u", "i"], ["p"]), node("ReduceSum", ["p", "axes"], ["y"], keepdims=0),
    ]  # fmt: skip
    constants = {"users.weight": normal(300, 32), "items.weight": normal(200, 32, seed=1), "axes": np.array([1], np.int64)}
    proto, random = model(nodes, constants, {}, {"y": ("n",)}), np.random.default_rng(0)
    feeds = {"user": random.integers(0, 300, 64), "item": random.integers(0, 200, 64)}
    proto.graph.input.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ("n",)) for name in feeds)
    (expected,), (result,), _, facts, ratio = quantise(proto, tmp_path, quantizer, {}, feeds)
    assert {entry["layer"] for entry in facts["layers"]} == {"users", "items"}
    assert not facts["left_float"]
    assert sqnr_db(expected, result) > (12 if quantizer == "weight_only" else 25)
    assert ratio > 3
    with pytest.raises(StageError, match="dynamic_int8 and weight_only take its Gather"):
        quantise(proto, tmp_path, "static_int8", {}, feeds)


def test_dynamic_ranges_leave_convolutions_float_by_name(tmp_path):
    _, _, operators, facts, _ = quantise(convolutions(), tmp_path, "dynamic_int8", {}, images())
    assert facts["left_float"] == ["conv1: Conv", "conv2: Conv", "conv3: Conv"]
    assert [entry["weight_bits"] for entry in facts["layers"]] == [32, 32, 32, 8]
    assert "ConvInteger" not in operators


def test_auto_takes_static_ranges_for_convolutions(tmp_path):
    (expected,), (result,), operators, facts, _ = quantise(convolutions(), tmp_path, "auto", {}, images())
    assert facts["mode"] == "static_int8"
    assert operators.count("QLinearConv") == 3
    assert sqnr_db(expected, result) > 25


@pytest.mark.parametrize(("quantizer", "settings"), [(name, settings) for name, settings, *_ in FORMATS if name != "codebook"])
def test_pruned_weights_stay_zero_or_the_facts_count_those_that_do_not(quantizer, settings, tmp_path):
    pruned = wide()
    weights = onnx.numpy_helper.to_array(pruned.graph.initializer[0]).copy()
    weights[np.abs(weights) < 1] = 0
    zeros = int((weights == 0).sum())
    pruned.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, pruned.graph.initializer[0].name))
    feeds = {"x": np.eye(64, dtype=np.float32)}
    facts = quantise(pruned, tmp_path, quantizer, settings, feeds)[3]
    assert facts["layers"][0].get("zeros_filled", 0) == (zeros if quantizer == "binary" else 0)


@pytest.mark.parametrize("quantizer", ["static_int8", "dynamic_int8", "auto", "linear", "float16", "bfloat16"])
def test_a_file_with_packed_weights_is_quantised_as_the_dense_one(quantizer, tmp_path):
    """Operators that rebuild packed weights compute in integers; the file is a float one for all that."""
    sparse = wide(20)
    weights = onnx.numpy_helper.to_array(sparse.graph.initializer[0]).copy()
    weights[np.abs(weights) < 1.5] = 0
    weights = np.round(weights)
    sparse.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, sparse.graph.initializer[0].name))
    packed = onnx.ModelProto.FromString(sparse.SerializeToString())
    assert packing.pack(packed, "bitmask+codebook")
    feeds = {"x": normal(32, 64, seed=9)}
    results = []
    for name, proto in (("dense", sparse), ("packed", packed)):
        (tmp_path / name).mkdir()
        results.append(quantise(proto, tmp_path / name, quantizer, {}, feeds)[1][0])
    assert np.array_equal(*results)


@pytest.mark.parametrize("quantizer", ["linear", "codebook", "binary", "dynamic_int8", "float16", "bfloat16"])
def test_layers_of_a_file_keep_their_names(quantizer, tmp_path):
    quantise(wide(), tmp_path, quantizer, {}, {"x": normal(4, 64)})
    names = [layer.name for layer in layers.of_onnx(tmp_path / "small.onnx").layers if layer.macs]
    assert names == ["a", "b"]


@pytest.mark.parametrize("first", ["linear", "power_of_two", "codebook", "weight_only", "ternary", "binary"])
def test_a_file_of_codes_is_not_quantised_again(first, tmp_path):
    quantise(wide(), tmp_path, first, {}, {"x": normal(4, 64)})
    for second in ("static_int8", "linear", "float16"):
        quantizer = Quantizer.model_validate({"type": second})
        with pytest.raises(StageError, match=r"file: is quantised already \('.*' is made of codes\)"):
            quantizer.quantize_onnx(tmp_path / "small.onnx", "file", [{"x": normal(4, 64)}], tmp_path / "again.onnx")

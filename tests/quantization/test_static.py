"""ONNX files in static int8: what becomes integers, what stays float, and what is refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from compress_cli.errors import ArtifactError, RecipeError, StageError
from compress_cli.quantization import layers, placement, ranges, source
from compress_cli.quantization.histogram import Histogram
from compress_cli.quantization.overrides import Widths
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from tests.quantization.small_files import convolutions, images, model, node, normal, run, sqnr_db

MOVES = {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Flatten", "Squeeze"}


def quantise(proto, tmp_path, batches=None, **settings):
    """Float and integer outputs, the operators that run, and the facts."""
    before, after = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(proto, before)
    batches = batches or [images(16, seed) for seed in range(4)]
    quantizer = StaticInt8.model_validate({"reduce_range": False, **settings})
    facts = quantizer.quantize_onnx(before, "float.onnx", batches, after)
    feeds = batches[0]
    expected, (result, operators) = run(before, feeds)[0], run(after, feeds)
    return expected, result, operators, facts


@pytest.mark.parametrize("act", ["Relu", "HardSwish", "Sigmoid", "HardSigmoid", "LeakyRelu"])
def test_activations_run_in_integers_where_there_is_a_kernel(act, tmp_path):
    (expected,), (result,), operators, facts = quantise(convolutions(act=act), tmp_path)
    assert {name for name in operators if not name.startswith(("QLinear", "QGemm"))} <= MOVES
    assert facts["left_float"] == []
    assert "DequantizeLinear" not in operators  # the head gives float, and nothing is made float for nobody
    assert sqnr_db(expected, result) > 25


def test_a_product_with_a_number_costs_nothing(tmp_path):
    """The same integers with other steps: no kernel, no rounding, whatever the factor."""
    plain, proto = convolutions(), convolutions()
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(1e-3), "small"))
    del proto.graph.node[-1]
    proto.graph.node.extend([node("Mul", ["m", "small"], ["s1"]), node("Mul", ["small", "s1"], ["s2"])])
    proto.graph.node.append(node("Gemm", ["s2", "fc.weight", "fc.bias"], ["y"], transB=1))
    for tensor in proto.graph.initializer:
        if tensor.name == "fc.weight":
            tensor.CopyFrom(numpy_helper.from_array(normal(5, 16, seed=5) * np.float32(1e6), "fc.weight"))
    (expected,), (result,), operators, facts = quantise(proto, tmp_path)
    assert "QLinearMul" not in operators
    assert facts["left_float"] == []
    reference, same, _, before = quantise(plain, tmp_path)
    np.testing.assert_allclose(expected, reference[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result, same[0], rtol=1e-4, atol=1e-4)
    limits = [each["layers"][-1]["activation_range"] for each in (facts, before)]
    np.testing.assert_allclose(np.array(limits[0]), np.array(limits[1]) * 1e-6, rtol=1e-5)


def test_a_weight_that_others_read_as_float_stays_beside_its_codes(tmp_path):
    """Code that looks rows of a linear layer's weights up reads the very same numbers."""
    weights = normal(12, 6)
    rows = np.array([2, 0, 11])
    nodes = [
        node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"]),
        node("ArgMax", ["x"], ["i"], axis=1, keepdims=0), node("Gather", ["w", "i"], ["picked"]),
    ]  # fmt: skip
    shapes = {"y": ["n", 4], "picked": ["n", 6]}
    proto = model(nodes, {"w": weights, "v": normal(6, 4, seed=1)}, {"x": ["n", 12]}, shapes)
    feeds = {"x": np.eye(12, dtype=np.float32)[rows] + normal(3, 12, seed=2, scale=0.1)}
    (expected, _), (result, picked), operators, _ = quantise(proto, tmp_path, [feeds])
    np.testing.assert_array_equal(picked, weights[rows])
    assert any("MatMul" in operator and operator != "MatMul" for operator in operators)
    assert sqnr_db(expected, result) > 25


def test_the_unit_of_a_number_that_is_predicted_stays_float(tmp_path):
    """A product and a sum behind the last layer: in 256 steps a prediction would be coarser than what it is made of."""
    proto = convolutions()
    (expected,), (plain,), before, _ = quantise(proto, tmp_path)
    proto.graph.node[-1].output[0] = "deviations"
    for name, value in (("deviation", 77.0), ("mean", 152.0)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array([value], np.float32), name))
    proto.graph.node.extend([node("Mul", ["deviations", "deviation"], ["scaled"]), node("Add", ["scaled", "mean"], ["y"])])
    (raw,), (result,), operators, _ = quantise(proto, tmp_path)
    np.testing.assert_allclose(raw, expected * 77 + 152, rtol=1e-5)
    np.testing.assert_allclose(result, plain * 77 + 152, rtol=1e-5)
    assert not {"QLinearMul", "QLinearAdd"} & {*operators} - {*before}


def test_resizing_padding_joining_and_attention_are_integers(tmp_path):
    weights = {
        "q.weight": normal(16, 16),
        "k.weight": normal(16, 16, seed=1),
        "v.weight": normal(16, 16, seed=2),
        "d": np.float32(4),
    }
    nodes = [node("MatMul", ["image", f"{name}.weight"], [name]) for name in "qkv"]
    nodes += [
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"]),
        node("Div", ["scores", "d"], ["scaled"]),
        node("Softmax", ["scaled"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v"], ["mixed"]),
        node("Concat", ["mixed", "v"], ["joined"], axis=-1),
        node("Pad", ["joined", "pads"], ["padded"]),
        node("Unsqueeze", ["padded", "axis"], ["plane"]),
        node("Resize", ["plane", "", "scales"], ["large"], mode="nearest"),
        node("GlobalAveragePool", ["large"], ["pooled"]),
        node("Flatten", ["pooled"], ["y"]),
    ]
    weights |= {"pads": np.array([0, 0, 0, 0, 1, 1]), "axis": np.array([1]), "scales": np.array([1, 1, 2, 2], np.float32)}
    proto = model(nodes, weights, {"image": ("n", 6, 16)}, {"y": ("n", 1)})
    batches = [{"image": normal(8, 6, 16, seed=seed)} for seed in range(3)]
    _, _, operators, facts = quantise(proto, tmp_path, batches)
    assert facts["left_float"] == []
    assert {name for name in operators if not name.startswith("QLinear")} <= MOVES | {"Resize", "Pad", "Unsqueeze"}
    assert operators.count("QLinearMatMul") == 5


def test_shares_above_those_of_calibration_do_not_begin_at_zero_again(tmp_path):
    """ONNX Runtime's softmax kernel does not cut off: its range is that of any share, whatever the samples had."""
    constants = {"w": np.eye(8, dtype=np.float32) + normal(8, 8, scale=0.01)}
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("Softmax", ["r"], ["p"], axis=-1),
             node("MatMul", ["p", "w2"], ["y"])]  # fmt: skip
    proto = model(nodes, constants | {"w2": np.eye(8, dtype=np.float32)}, {"x": ("n", 8)}, {"y": ("n", 8)})
    onnx.save(proto, tmp_path / "float.onnx")
    even = [{"x": np.abs(normal(16, 8, seed=seed, scale=0.5))} for seed in range(4)]
    even[0]["x"][0] = 4.0  # so that the inputs' range holds the sharp ones
    StaticInt8(reduce_range=False).quantize_onnx(tmp_path / "float.onnx", "f", even, tmp_path / "int8.onnx")
    sharp = {"x": np.eye(8, dtype=np.float32) * 4.0}
    (expected,), (shares,) = (run(tmp_path / f"{name}.onnx", sharp)[0] for name in ("float", "int8"))
    assert expected.max() > 0.8
    np.testing.assert_allclose(shares, expected, atol=0.03)


@pytest.mark.parametrize("shape", [[], [0, 10, 10]])
def test_shares_of_many_classes_that_leave_the_graph_are_not_rounded_to_nothing(shape, tmp_path):
    """Of a hundred classes most have less than half of a 255th; the logits before them are not rounded either."""
    ends = [node("Softmax", ["l"], ["p"], axis=-1), node("Reshape", ["p", "shape"], ["y"])] if shape else []
    nodes = [node("Gemm", ["x", "w", "b"], ["l"]), *(ends or [node("Softmax", ["l"], ["y"], axis=-1)])]
    constants = {"w": normal(16, 100, scale=0.1), "b": normal(100, seed=1, scale=0.1)}
    constants |= {"shape": np.array(shape)} if shape else {}
    outputs = {"y": ("n", 10, 10) if shape else ("n", 100)}
    batches = [{"x": normal(16, 16, seed=seed)} for seed in range(3)]
    (expected,), (quantised,), _, facts = quantise(model(nodes, constants, {"x": ("n", 16)}, outputs), tmp_path, batches)
    assert facts["left_float"] == ["p: Softmax" if shape else "y: Softmax"]
    assert sqnr_db(expected, quantised) > 30
    assert (quantised > 0).all()


def test_a_mel_front_end_stays_float_by_itself(tmp_path):
    """A fixed filter bank and a logarithm prepare the input: rounded to 8 bits, quiet sounds would be lost."""
    constants = {
        "window": np.abs(normal(64, 40)),
        "tiny": np.float32(1e-6),
        "fc.weight": normal(40, 8),
        "fc2.weight": normal(8, 4),
    }
    nodes = [
        node("Mul", ["sound", "sound"], ["power"]), node("MatMul", ["power", "window"], ["bands"]),
        node("Add", ["bands", "tiny"], ["safe"]), node("Log", ["safe"], ["mel"]), node("MatMul", ["mel", "fc.weight"], ["h"]),
        node("Relu", ["h"], ["r"]), node("MatMul", ["r", "fc2.weight"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, constants, {"sound": ("n", 64)}, {"y": ("n", 4)})
    loudness = np.logspace(-3, 0, 32, dtype=np.float32)[:, None]
    (expected,), (result,), _, facts = quantise(proto, tmp_path, [{"sound": normal(32, 64) * loudness}])
    assert facts["left_float"] == ["power: Mul", "window: MatMul", "safe: Add", "mel: Log"]
    assert [entry["layer"] for entry in facts["layers"]] == ["fc", "fc2"]
    assert sqnr_db(expected, result) > 30


def test_the_logarithm_of_a_softplus_is_no_front_end():
    constants = {"a.weight": normal(8, 8), "one": np.float32(1), "b.weight": normal(8, 8)}
    nodes = [
        node("MatMul", ["image", "a.weight"], ["h"]), node("Exp", ["h"], ["e"]), node("Add", ["e", "one"], ["p"]),
        node("Log", ["p"], ["l"]), node("MatMul", ["l", "b.weight"], ["y"]),
    ]  # fmt: skip
    proto = source.simplified(model(nodes, constants, {"image": ("n", 8)}, {"y": ("n", 8)}), "x")
    assert [layer.name for layer in layers.layers(proto)] == ["a", "b"]


def test_normalisation_before_the_first_layer_is_not_rounded(tmp_path):
    proto = convolutions()
    proto.graph.node.insert(0, node("Sub", ["raw", "mean"], ["image"]))
    proto.graph.input[0].name = "raw"
    proto.graph.initializer.append(numpy_helper.from_array(normal(1, 3, 1, 1), "mean"))
    _, _, operators, facts = quantise(proto, tmp_path, [{"raw": images()["image"]}])
    assert facts["left_float"] == ["mean: Sub"]
    assert operators[0] == "Sub"


def test_each_layer_is_described(tmp_path):
    proto = convolutions()
    _, _, _, facts = quantise(proto, tmp_path, calibration={"type": "percentile", "percent": 99.0})
    first = facts["layers"][0]
    weights = numpy_helper.to_array(proto.graph.initializer[0])
    scale = np.abs(weights).max((1, 2, 3), keepdims=True) / 127
    assert (first["layer"], first["operator"], first["weight_bits"], first["activation_bits"]) == ("conv1", "Conv", 8, 8)
    assert first["weight_sqnr_db"] == pytest.approx(sqnr_db(weights, np.round(weights / scale) * scale), abs=0.01)
    assert first["weight_range"] == [pytest.approx(weights.min()), pytest.approx(weights.max())]
    assert first["bytes"] == weights.size + 4 * 8
    assert first["activation_clipped"] == pytest.approx(0.01, abs=0.002)
    pixels = np.concatenate([images(16, seed)["image"] for seed in range(4)])
    np.testing.assert_allclose(first["activation_range"], np.percentile(pixels, [0.5, 99.5]), atol=0.02)


def test_overrides_by_name(tmp_path):
    overrides = [
        {"layers": "conv1", "weights": "float"},
        {"layers": "conv3", "weights": 4},
        {"layers": "fc", "activations": "float"},
    ]
    (expected,), (result,), operators, facts = quantise(convolutions(), tmp_path, overrides=overrides)
    assert [entry["weight_bits"] for entry in facts["layers"]] == [32, 8, 4, 8]
    assert operators.count("QLinearConv") == 2
    assert {"Conv", "Gemm"} <= {name.removeprefix("Fused") for name in operators}
    assert "conv1.weight: Conv" in facts["left_float"]
    assert facts["layers"][2]["bytes"] == 16 * 8 / 2 + 4 * 16  # codes, scales
    assert sqnr_db(expected, result) > 12


def test_fewer_bits_of_activations_are_cut_to_their_steps(tmp_path):
    _, (coarse,), _, facts = quantise(convolutions(), tmp_path, overrides=[{"layers": "fc", "activations": 2}])
    assert facts["layers"][3]["activation_bits"] == 2
    written = onnx.load(tmp_path / "int8.onnx")
    (expected,), (fine,), _, _ = quantise(convolutions(), tmp_path)
    assert sqnr_db(expected, coarse) < sqnr_db(expected, fine) - 10
    assert "Clip" in {each.op_type for each in written.graph.node}


def test_a_pattern_that_fits_nothing_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no layer is called 'conv9'; did you mean 'conv3'"):
        quantise(convolutions(), tmp_path, overrides=[{"layers": "conv9", "weights": 4}])


def test_all_layers_float_is_refused(tmp_path):
    with pytest.raises(StageError, match="nothing was quantised"):
        quantise(convolutions(), tmp_path, overrides=[{"layers": "*", "weights": "float"}])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_samples_that_give_nan_are_refused(wrong, tmp_path):
    batches = [images(), {"image": np.full((1, 3, 8, 8), wrong, np.float32)}]
    with pytest.raises(StageError, match="NaN or infinite on calibration samples"):
        quantise(convolutions(), tmp_path, batches)


def test_no_calibration_samples_are_refused(tmp_path):
    onnx.save(convolutions(), tmp_path / "a.onnx")
    with pytest.raises(StageError, match="no calibration samples"):
        StaticInt8().quantize_onnx(tmp_path / "a.onnx", "a.onnx", [], tmp_path / "b.onnx")


def test_constant_activations_survive(tmp_path):
    (expected,), (result,), _, _ = quantise(convolutions(), tmp_path, [{"image": np.zeros((4, 3, 8, 8), np.float32)}])
    np.testing.assert_allclose(result, expected, atol=0.05 * np.abs(expected).max())


def test_a_bias_far_above_its_channels_weights_is_kept(tmp_path):
    """32 bits of a bias are counted in steps of input times weights: with weights near 0 it would not fit."""
    proto = convolutions()
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    weights, bias = (numpy_helper.to_array(tensors[f"conv1.{part}"]).copy() for part in ("weight", "bias"))
    weights[2], bias[2] = 0, 5.0
    weights[3], bias[3] = 1e-12, -3.0
    for part, array in (("weight", weights), ("bias", bias)):
        tensors[f"conv1.{part}"].CopyFrom(numpy_helper.from_array(array, f"conv1.{part}"))
    (expected,), (result,), _, _ = quantise(proto, tmp_path)
    assert sqnr_db(expected, result) > 25


def test_two_inputs_several_outputs_and_a_state(tmp_path):
    constants = {"a.weight": normal(8, 8), "b.weight": normal(8, 8, seed=1), "c.weight": normal(8, 3, seed=2)}
    nodes = [
        node("MatMul", ["x", "a.weight"], ["xa"]), node("MatMul", ["state", "b.weight"], ["sb"]),
        node("Add", ["xa", "sb"], ["sum"]), node("Relu", ["sum"], ["next"]), node("MatMul", ["next", "c.weight"], ["y"]),
        node("ArgMax", ["y"], ["best"], axis=-1, keepdims=0),
    ]  # fmt: skip
    proto = model(nodes, constants, {"x": ("n", 8), "state": ("n", 8)}, {"y": ("n", 3), "next": ("n", 8)})
    proto.graph.output.append(onnx.helper.make_tensor_value_info("best", TensorProto.INT64, ("n",)))
    batches = [{"x": normal(16, 8, seed=seed), "state": np.abs(normal(16, 8, seed=seed + 9))} for seed in range(3)]
    expected, result, _, _ = quantise(proto, tmp_path, batches)
    assert all(sqnr_db(*pair) > 30 for pair in zip(expected[:2], result[:2], strict=True))
    assert (expected[2] == result[2]).mean() > 0.9


def test_the_default_takes_the_calibration_with_the_least_output_error(tmp_path):
    batches = [images(32)]
    errors = {
        each: sqnr_db(*(part[0] for part in quantise(convolutions(), tmp_path, batches, calibration=each)[:2]))
        for each in ("mse", "min_max", "percentile")
    }
    (expected,), (result,), _, facts = quantise(convolutions(), tmp_path, batches)
    assert facts["calibration"] == max(errors, key=errors.get)
    assert sqnr_db(expected, result) == pytest.approx(max(errors.values()))


def test_memory_of_calibration_does_not_grow_with_the_samples(tmp_path):
    """Ten times the batches, one in memory at a time."""
    alive, most = [], []

    def batches(count):
        import weakref

        for seed in range(count):
            feeds = images(16, seed)
            alive.append(weakref.ref(feeds["image"]))
            most.append(sum(part() is not None for part in alive))
            yield feeds

    onnx.save(convolutions(), tmp_path / "a.onnx")
    for count in (6, 60):
        alive.clear(), most.clear()
        StaticInt8().quantize_onnx(tmp_path / "a.onnx", "a.onnx", batches(count), tmp_path / "b.onnx")
        assert max(most) <= 4 + 2  # 64 samples are kept for the choice of a calibration


def test_moves_keep_the_range_of_what_they_move():
    proto = source.simplified(convolutions(), "x")
    places = placement.place(proto, layers.layers(proto), lambda layer: Widths(8, 8))
    assert set(places.weighted) == {each.name for each in proto.graph.node if each.op_type in ("Conv", "Gemm")}
    assert places.opened == {"y"}


@pytest.mark.parametrize("far", [-1e4, -1e9, -np.inf])
def test_a_mask_of_minus_infinity_stays_float(far, tmp_path):
    """256 steps between 0 and -1e9 would make all scores equal, and say nothing."""
    mask = np.triu(np.full((6, 6), far, np.float32), 1)
    weights = {f"{name}.weight": normal(16, 16, seed=seed, scale=0.4) for seed, name in enumerate("qkv")} | {"mask": mask}
    nodes = [node("MatMul", ["image", f"{name}.weight"], [name]) for name in "qkv"]
    nodes += [
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"]),
        node("Add", ["scores", "mask"], ["masked"]),
        node("Softmax", ["masked"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v"], ["y"]),
    ]
    proto = model(nodes, weights, {"image": ("n", 6, 16)}, {"y": ("n", 6, 16)})
    batches = [{"image": normal(8, 6, 16, seed=seed)} for seed in range(3)]
    (expected,), (result,), operators, facts = quantise(proto, tmp_path, batches)
    assert sqnr_db(expected, result) > 25
    assert "mask: Add" in facts["left_float"]
    assert operators.count("QLinearMatMul") >= 3


def test_weights_in_a_file_of_their_own_are_read(tmp_path):
    folder = tmp_path / "big"
    folder.mkdir()
    onnx.save(convolutions(), folder / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    facts = StaticInt8().quantize_onnx(folder / "a.onnx", "a.onnx", [images()], tmp_path / "b.onnx")
    assert len(facts["layers"]) == 4
    (expected,), (result,) = (run(path, images())[0] for path in (folder / "a.onnx", tmp_path / "b.onnx"))
    assert sqnr_db(expected, result) > 20
    (folder / "a.data").unlink()
    with pytest.raises(ArtifactError, match="which is missing"):
        StaticInt8().quantize_onnx(folder / "a.onnx", "a.onnx", [images()], tmp_path / "b.onnx")


@pytest.mark.parametrize(
    ("values", "wild"),
    [
        (normal(1000), False), (np.append(normal(100_000), 900.0), False), (np.append(normal(1000), [-1e4] * 100), True),
        (normal(1000, scale=300), False), (np.arange(256), False), ([0.0, 3.0] * 9, False), ([np.inf, 1.0], True),
    ],
)  # fmt: skip
def test_what_stands_for_infinity_is_told_from_outliers(values, wild):
    histogram = Histogram()
    histogram.add(np.asarray(values, np.float32))
    assert ranges.is_wild(histogram) == wild


def test_a_product_whose_weights_lost_their_name_is_called_after_its_bias():
    constants = {
        "val_3": normal(8, 8),
        "body.encoder.fc1.bias": normal(8),
        "val_4": normal(8, 8, seed=1),
        "c": normal(8, seed=2),
    }
    nodes = [
        node("MatMul", ["x", "val_3"], ["a"]), node("Add", ["body.encoder.fc1.bias", "a"], ["b"]), node("Relu", ["b"], ["r"]),
        node("MatMul", ["r", "val_4"], ["d"]), node("Add", ["d", "c"], ["y"]),
    ]  # fmt: skip
    proto = source.simplified(model(nodes, constants, {"x": ("n", 4, 8)}, {"y": ("n", 4, 8)}), "x")
    assert [layer.name for layer in layers.layers(proto)] == ["encoder.fc1", "val_4"]

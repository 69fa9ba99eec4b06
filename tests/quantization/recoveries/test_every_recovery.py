"""What wins accuracy back, on models that need it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress_cli.errors import StageError
from compress_cli.quantization import layers, ranges, source
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from compress_cli.quantization.recoveries import Job
from compress_cli.quantization.recoveries.bias_absorption import BiasAbsorption
from compress_cli.quantization.recoveries.equalization import Equalization
from compress_cli.quantization.recoveries.smooth_quant import SmoothQuant
from tests.quantization.small_files import convolutions, digits_network, images, model, node, normal, run, sqnr_db

UNEVEN = 10.0 ** np.linspace(-2, 2, 8)  # ranges of channels, as after folding batch norms of a MobileNet


def noise(proto, tmp_path, batches, **settings):
    before, after = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(proto, before)
    StaticInt8.model_validate({"reduce_range": False, **settings}).quantize_onnx(before, "float.onnx", batches, after)
    return sqnr_db(run(before, batches[0])[0][0], run(after, batches[0])[0][0])


def transformer(outliers=1.0):
    """A layer normalisation, and two linear layers that read it: (n, 6, 32) -> (n, 6, 32)."""
    factors = np.ones(32, np.float32)
    factors[[3, 17]] = outliers
    constants = {
        "norm.weight": factors, "norm.bias": normal(32, seed=1, scale=0.1) * factors,
        "a.weight": normal(32, 32, seed=2, scale=0.2) / factors[:, None],
        "b.weight": normal(32, 32, seed=3, scale=0.2) / factors[:, None],
    }  # fmt: skip
    nodes = [
        node("LayerNormalization", ["x", "norm.weight", "norm.bias"], ["h"]),
        node("MatMul", ["h", "a.weight"], ["a"]),
        node("MatMul", ["h", "b.weight"], ["b"]),
        node("Mul", ["a", "b"], ["y"]),
    ]
    return model(nodes, constants, {"x": ("n", 6, 32)}, {"y": ("n", 6, 32)})


def limited(limit=6.0, scale=None):
    """The convolutions with what cuts off at 0 and a limit behind them, as ReLU6 does."""
    proto = convolutions(act="Clip", scale=scale)
    for value, name in ((0, "lo"), (limit, "hi")):
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    for each in proto.graph.node:
        if each.op_type == "Clip":
            each.input.extend(["lo", "hi"])
    return proto


def dead(limit=6.0):
    """The same, with what batch norms leave of channels that hardly ever fire: values of a hundredth, which the next layer's
    weights make large again. Other channels reach the limit."""
    return limited(limit, scale=np.array([1, 1, 1e-3, 1, 1, 1e-3, 3, 3]))


def high(pads=0):
    """Two convolutions with a ReLU between, of which two channels have high biases: (n, 3, 8, 8) -> (n, 4, 8, 8)."""
    bias = normal(6, seed=1, scale=0.1)
    bias[[1, 4]] = 60.0, 90.0
    constants = {
        "a.weight": normal(6, 3, 1, 1, scale=0.3), "a.bias": bias,
        "b.weight": normal(4, 6, 1 + 2 * pads, 1 + 2 * pads, seed=2), "b.bias": normal(4, seed=3),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "a.weight", "a.bias"], ["h"], kernel_shape=[1, 1]),
        node("Relu", ["h"], ["r"]),
        node("Conv", ["r", "b.weight", "b.bias"], ["y"], kernel_shape=[1 + 2 * pads] * 2, pads=[pads] * 4),
    ]
    return model(nodes, constants, {"x": ("n", 3, 8, 8)}, {"y": ("n", 4, 8, 8)})


def job(proto, samples):
    simple = source.simplified(proto, "x")
    return Job(simple, {layer.node: layer for layer in layers.layers(simple)}, samples)


@pytest.mark.parametrize(
    ("recovery", "proto"),
    [
        (Equalization(), convolutions(scale=UNEVEN)),
        (Equalization(relu6="scale"), dead()),
        (SmoothQuant(), transformer(50.0)),
        (BiasAbsorption(), high()),
    ],
)
def test_rescaling_does_not_change_what_the_graph_computes(recovery, proto):
    (port,) = proto.graph.input
    feeds = {port.name: normal(16, *[axis.dim_value for axis in port.type.tensor_type.shape.dim[1:]], seed=7)}
    work = job(proto, [feeds])
    (before,) = ranges.session(work.model).run(None, feeds)
    assert recovery.rescale(work) > 0
    (after,) = ranges.session(work.model).run(None, feeds)
    np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max())


def test_equalised_channels_have_the_same_range_on_both_sides():
    work = job(convolutions(scale=UNEVEN), [images()])
    Equalization(rounds=50).rescale(work)
    first, second = (layers.array(work.model, f"conv{number}.weight") for number in (1, 2))
    np.testing.assert_allclose(np.abs(first).max((1, 2, 3)), np.abs(second).max((1, 2, 3)), rtol=1e-3)


def test_equalisation_wins_back_what_a_scale_for_the_whole_layer_costs(tmp_path):
    proto, batches = convolutions(scale=UNEVEN), [images(64)]
    lost = noise(proto, tmp_path, batches, per_channel=False)
    assert lost < 8
    assert noise(proto, tmp_path, batches, per_channel=False, recover=["equalization"]) > lost + 15
    assert noise(convolutions(), tmp_path, batches, per_channel=False) > lost + 15  # the same function, evenly scaled


def test_a_limit_above_zero_is_not_passed():
    work = job(limited(scale=UNEVEN), [images()])
    before = layers.array(work.model, "conv1.weight").copy()
    Equalization().rescale(work)
    assert np.array_equal(layers.array(work.model, "conv1.weight"), before)


def test_below_a_limit_only_channels_that_never_reach_it_are_scaled():
    work = job(dead(limit=2.0), [images()])
    (before,) = ranges.values(work.model, ["c1"], [images()])
    Equalization(relu6="scale").rescale(work)
    (after,) = ranges.values(work.model, ["c1"], [images()])
    highest, scaled = before["c1"].max((0, 2, 3)), after["c1"].max((0, 2, 3))
    is_cut = highest >= 2
    assert 0 < is_cut.sum() < 8
    np.testing.assert_allclose(scaled[is_cut], highest[is_cut], rtol=1e-5)
    assert (scaled[[2, 5]] > 100 * highest[[2, 5]]).all()  # the two that hardly fire
    assert (scaled[~is_cut] <= np.maximum(highest[~is_cut], 1.0) * 1.00001).all()  # to half of the limit at most


def test_equalisation_below_a_limit_wins_back_what_a_scale_for_the_whole_layer_costs(tmp_path):
    batches = [images(64)]
    lost = noise(dead(), tmp_path, batches, per_channel=False)
    assert lost < 10
    with pytest.raises(StageError, match="leave it out, or set relu6: scale"):
        noise(dead(), tmp_path, batches, per_channel=False, recover=["equalization"])
    won = noise(dead(), tmp_path, batches, per_channel=False, recover=[{"type": "equalization", "relu6": "scale"}])
    assert won > lost + 15
    _, operators = run(tmp_path / "int8.onnx", batches[0])
    assert operators.count("QLinearConv") == 3
    assert not {"Conv", "Clip", "Min", "Mul"} & {*operators}  # as fast as without


def test_what_all_values_exceed_moves_into_the_next_layer(tmp_path):
    batches = [{"x": normal(16, 3, 8, 8, seed=seed)} for seed in range(4)]
    lost = noise(high(), tmp_path, batches)
    assert noise(high(), tmp_path, batches, recover=["bias_absorption"]) > lost + 6
    work = job(high(), batches)
    (before,) = ranges.values(work.model, ["r"], batches[:1])
    BiasAbsorption().rescale(work)
    (after,) = ranges.values(work.model, ["r"], batches[:1])
    assert before["r"][:, [1, 4]].min() > 50
    assert after["r"].max() < 10


def test_biases_are_not_absorbed_where_zeros_are_padded():
    work = job(high(pads=1), [{"x": normal(16, 3, 8, 8)}])
    assert BiasAbsorption().rescale(work) == 0


def test_layers_that_share_a_bias_are_left_alone():
    """Scaling it for one would change the other."""
    proto = convolutions(scale=UNEVEN)
    proto.graph.node[2].input[2] = "conv1.bias"  # of the second convolution, too
    feeds = images()
    work = job(proto, [feeds])
    (before,) = ranges.session(work.model).run(None, feeds)
    Equalization().rescale(work)
    (after,) = ranges.session(work.model).run(None, feeds)
    np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max())


def test_smoothing_wins_back_what_outlying_channels_cost(tmp_path):
    batches = [{"x": normal(16, 6, 32, seed=seed)} for seed in range(4)]
    lost = noise(transformer(100.0), tmp_path, batches)
    won = noise(transformer(100.0), tmp_path, batches, recover=["smooth_quant"])
    assert won > lost + 10
    assert "Mul" in {each.op_type for each in onnx.load(tmp_path / "int8.onnx").graph.node}  # the product of a and b alone
    assert sum(each.op_type == "Mul" for each in onnx.load(tmp_path / "int8.onnx").graph.node) == 1


def test_corrected_biases_take_the_mean_error_back(tmp_path):
    proto, batches = convolutions(act="Sigmoid"), [images(64)]  # whose outputs have a mean
    few = [{"layers": "conv*", "weights": 3}]
    lost = noise(proto, tmp_path, batches, overrides=few)

    def shift():
        (expected,), (result,) = (run(tmp_path / f"{name}.onnx", batches[0])[0] for name in ("float", "int8"))
        return np.abs((result - expected).mean(0)).max()

    before = shift()
    won = noise(proto, tmp_path, batches, overrides=few, recover=["bias_correction"])
    assert shift() < 0.5 * before
    assert won > lost + 1.5


def test_learned_rounding_beats_the_nearest_at_few_bits(tmp_path):
    proto, batches = convolutions(), [images(64)]
    few = [{"layers": "conv3", "weights": 2}, {"layers": "fc", "weights": 2}]
    lost = noise(proto, tmp_path, batches, overrides=few)
    assert noise(proto, tmp_path, batches, overrides=few, recover=[{"type": "ada_round", "steps": 100}]) > lost + 1.5


def test_learned_rounding_wins_back_the_accuracy_that_two_bits_cost(tmp_path):
    """On inputs in the hundreds, whose errors a fixed weight of the regulariser would drown in: at least four fifths."""
    calibration, pictures, digits = digits_network(tmp_path / "float.onnx")
    batches = [{"image": calibration[start : start + 32]} for start in range(0, 512, 32)]

    def accuracy(**settings):
        quantizer = StaticInt8.model_validate({"reduce_range": False, **settings})
        quantizer.quantize_onnx(tmp_path / "float.onnx", "float.onnx", batches, tmp_path / "int8.onnx")
        return (run(tmp_path / "int8.onnx", {"image": pictures})[0][0].argmax(1) == digits).mean()

    few = {"overrides": [{"layers": "*", "weights": 2}]}
    exact = (run(tmp_path / "float.onnx", {"image": pictures})[0][0].argmax(1) == digits).mean()
    nearest = accuracy(**few)
    assert nearest < exact - 0.1
    learned = accuracy(**few, recover=[{"type": "ada_round", "steps": 150}])
    assert learned > nearest + 0.8 * (exact - nearest)


def test_a_recovery_that_finds_nothing_is_refused(tmp_path):
    with pytest.raises(StageError, match="recovery 'equalization' finds nothing in this model"):
        noise(transformer(), tmp_path, [{"x": normal(16, 6, 32)}], recover=["equalization"])
    with pytest.raises(StageError, match="recovery 'bias_correction' finds nothing"):
        noise(transformer(), tmp_path, [{"x": normal(16, 6, 32)}], recover=["bias_correction"])


def read_in_a_branch(proto, value):
    """The same, whose inner value is read by the branches of an `If`, too, whose result is the output `seen`."""
    (port,) = proto.graph.input
    branch = [
        helper.make_graph([node("ReduceMax", [value], [name], keepdims=0)], name, [],
                          [helper.make_tensor_value_info(name, TensorProto.FLOAT, ())])
        for name in ("then", "else")
    ]  # fmt: skip
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    proto.graph.node.extend([
        node("ReduceSum", [port.name], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["seen"], name="if", then_branch=branch[0], else_branch=branch[1]),
    ])  # fmt: skip
    proto.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, ()))
    return proto


@pytest.mark.parametrize(
    ("recovery", "proto", "value"),
    [
        (Equalization(), convolutions(scale=UNEVEN), "r1"),
        (BiasAbsorption(), high(), "r"),
        (SmoothQuant(), transformer(50.0), "h"),
    ],
)
def test_what_a_branch_reads_stays_as_it_is(recovery, proto, value):
    (port,) = proto.graph.input
    feeds = {port.name: normal(16, *[axis.dim_value for axis in port.type.tensor_type.shape.dim[1:]], seed=7)}
    work = job(read_in_a_branch(proto, value), [feeds])
    before = ranges.session(work.model).run(None, feeds)
    recovery.rescale(work)
    for old, new in zip(before, ranges.session(work.model).run(None, feeds), strict=True):
        np.testing.assert_allclose(new, old, atol=2e-5 * np.abs(old).max())

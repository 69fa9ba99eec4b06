"""What wins accuracy back, on models that need it."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compress_cli.errors import StageError
from compress_cli.quantization import layers, ranges, source
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from compress_cli.quantization.recoveries import Job
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


def job(proto, samples):
    simple = source.simplified(proto, "x")
    return Job(simple, {layer.node: layer for layer in layers.layers(simple)}, samples)


@pytest.mark.parametrize(
    ("recovery", "proto"), [(Equalization(), convolutions(scale=UNEVEN)), (SmoothQuant(), transformer(50.0))]
)
def test_rescaling_does_not_change_what_the_graph_computes(recovery, proto):
    feeds = images() if proto.graph.input[0].name == "image" else {"x": normal(16, 6, 32, seed=9)}
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
    proto = convolutions(act="Clip", scale=UNEVEN)
    proto.graph.initializer.extend([numpy_helper.from_array(np.float32(value), name) for name, value in (("lo", 0), ("hi", 6))])
    for each in proto.graph.node:
        if each.op_type == "Clip":
            each.input.extend(["lo", "hi"])
    work = job(proto, [images()])
    before = layers.array(work.model, "conv1.weight").copy()
    Equalization().rescale(work)
    assert np.array_equal(layers.array(work.model, "conv1.weight"), before)


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

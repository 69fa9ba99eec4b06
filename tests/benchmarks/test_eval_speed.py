"""Measuring costs hardly more than running: samples per second against a bare ONNX Runtime loop, in turn in one process."""

import time

import numpy as np
import pytest

from compress_cli.data.datasets import Split
from compress_cli.measurement.measure import predict
from compress_cli.measurement.sessions import open_session
from compress_cli.statistics.intervals import median

pytestmark = pytest.mark.slow
ROUNDS = 21


def convnet(path, width, depth, side):
    """A stack of 3x3 convolutions for square pictures, then the mean and 10 classes."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng, nodes, weights, last, channels = np.random.default_rng(0), [], {}, "image", 3
    for layer in range(depth):
        weights[f"w{layer}"] = rng.normal(0, 0.1, (width, channels, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        last, channels = f"r{layer}", width
    weights["w"] = rng.normal(0, 0.1, (width, 10)).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convnet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 3, side, side))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 10))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return open_session(path)


@pytest.mark.parametrize(
    ("width", "depth", "side", "batch", "samples"),
    [(8, 2, 32, 128, 1024), (16, 6, 32, 128, 1024), (8, 2, 32, 256, 2048), (8, 2, 224, 16, 64)],
)
def test_throughput_is_that_of_a_bare_loop(tmp_path, width, depth, side, batch, samples):
    session = convnet(tmp_path / "model.onnx", width, depth, side)
    images = np.random.default_rng(0).integers(0, 256, (samples, 3, side, side)).astype(np.uint8)
    split = Split({"image": images}, {}, np.arange(samples))

    def bare():
        run, starts = session.raw.run, range(0, samples, batch)
        return np.concatenate([run(None, {"image": images[at : at + batch].astype(np.float32)})[0] for at in starts])

    def ours():
        return predict(session, split, batch, lambda progress: None)["logits"]

    np.testing.assert_array_equal(bare(), ours())
    times = {bare: [], ours: []}
    order = np.random.default_rng(0)
    for _ in range(ROUNDS):
        for way in order.permutation([bare, ours]):
            begun = time.perf_counter()
            way()
            times[way].append(time.perf_counter() - begun)
    ratio = median(np.array(times[bare]) / np.array(times[ours]), 0.95)
    rate, what = samples / np.median(times[ours]), f"batches of {batch} x 3 x {side} x {side}, {depth} layers of {width}"
    print(f"\n{what}: {ratio.value:.3f} of a bare loop [{ratio.low:.3f}, {ratio.high:.3f}], {rate:.0f} samples/s")
    assert ratio.value >= 0.95

"""Measuring costs hardly more than running: samples per second against a bare ONNX Runtime loop, in turn in one process."""

import time

import numpy as np
import pytest

from compress_cli.datasets import Split
from compress_cli.intervals import median
from compress_cli.measure import predict
from compress_cli.runtime import open_session

pytestmark = pytest.mark.slow
BATCH, SAMPLES, ROUNDS = 128, 1024, 21


def convnet(path, width, depth):
    """A stack of 3x3 convolutions for 32x32 pictures, then the mean and 10 classes."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng, nodes, weights, last, channels = np.random.default_rng(0), [], {}, "image", 3
    for place in range(depth):
        weights[f"w{place}"] = rng.normal(0, 0.1, (width, channels, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, f"w{place}"], [f"c{place}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [f"r{place}"]))
        last, channels = f"r{place}", width
    weights["w"] = rng.normal(0, 0.1, (width, 10)).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convnet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 3, 32, 32))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 10))],
        [numpy_helper.from_array(each, name) for name, each in weights.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return open_session(path)


@pytest.mark.parametrize(("width", "depth"), [(8, 2), (16, 6)])
def test_throughput_is_that_of_a_bare_loop(tmp_path, width, depth):
    session = convnet(tmp_path / "model.onnx", width, depth)
    images = np.random.default_rng(0).integers(0, 256, (SAMPLES, 3, 32, 32)).astype(np.uint8)
    split = Split({"image": images}, {}, np.arange(SAMPLES))

    def bare():
        run, starts = session.raw.run, range(0, SAMPLES, BATCH)
        return np.concatenate([run(None, {"image": images[at : at + BATCH].astype(np.float32)})[0] for at in starts])

    def ours():
        return predict(session, split, BATCH, lambda progress: None)["logits"]

    np.testing.assert_array_equal(bare(), ours())
    times = {bare: [], ours: []}
    order = np.random.default_rng(0)
    for _ in range(ROUNDS):
        for each in order.permutation([bare, ours]):
            begun = time.perf_counter()
            each()
            times[each].append(time.perf_counter() - begun)
    ratio = median(np.array(times[bare]) / np.array(times[ours]), 0.95)
    rate = SAMPLES / np.median(times[ours])
    print(f"\n{width} x {depth}: {ratio.value:.3f} of a bare loop [{ratio.low:.3f}, {ratio.high:.3f}], {rate:.0f} samples/s")
    assert ratio.value >= 0.95

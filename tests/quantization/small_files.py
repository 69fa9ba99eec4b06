"""Small ONNX files, written by hand: no exporter, no seconds."""

import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn

node = helper.make_node


def model(nodes, constants, inputs, outputs, opset=17, ir=8):
    """inputs, outputs: name -> shape, where "n" is open; float32."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    ports = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "g", *ports, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def normal(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def run(path, feeds):
    """Outputs, and the operators that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    operators = [each.op_type for each in onnx.load(path.with_suffix(".optimised")).graph.node]
    return session.run(None, feeds), operators


def sqnr_db(reference, other):
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - other).sum()))


def convolutions(channels=8, act="Relu", scale=None):
    """Two convolutions (the second depthwise), a mean and a linear layer: (n, 3, 8, 8) -> (n, 5). `scale`: (channels,) factors
    by which the first layer's channels are larger, and the second's smaller."""
    scale = np.ones(channels, np.float32) if scale is None else scale.astype(np.float32)
    constants = {
        "conv1.weight": normal(channels, 3, 3, 3, scale=0.3) * scale[:, None, None, None],
        "conv1.bias": normal(channels, seed=1, scale=0.1) * scale,
        "conv2.weight": normal(channels, 1, 3, 3, seed=2, scale=0.5) / scale[:, None, None, None],
        "conv2.bias": normal(channels, seed=3, scale=0.1),
        "conv3.weight": normal(16, channels, 1, 1, seed=4, scale=0.5),
        "fc.weight": normal(5, 16, seed=5), "fc.bias": normal(5, seed=6),
    }  # fmt: skip
    nodes = [
        node("Conv", ["image", "conv1.weight", "conv1.bias"], ["c1"], pads=[1] * 4, kernel_shape=[3, 3]),
        node(act, ["c1"], ["r1"]),
        node("Conv", ["r1", "conv2.weight", "conv2.bias"], ["c2"], pads=[1] * 4, kernel_shape=[3, 3], group=channels),
        node(act, ["c2"], ["r2"]),
        node("Conv", ["r2", "conv3.weight"], ["c3"], kernel_shape=[1, 1]),
        node("ReduceMean", ["c3"], ["m"], axes=[2, 3], keepdims=0),
        node("Gemm", ["m", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    return model(nodes, constants, {"image": ("n", 3, 8, 8)}, {"y": ("n", 5)})


def images(samples=64, seed=7):
    return {"image": normal(samples, 3, 8, 8, seed=seed)}


def digits_network(path):
    """A network of raw pixels that reads digits, and its data: calibration pictures, test pictures and their digits."""
    pictures, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    pictures, digits = pictures.reshape(-1, 1, 8, 8)[order].astype(np.float32) * 50, digits[order]
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(12):
        for batch in torch.randperm(1000).split(50):
            loss = nn.functional.cross_entropy(network(torch.tensor(pictures[batch])), torch.tensor(digits[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), torch.tensor(pictures[:2]), path, dynamo=False, opset_version=17, input_names=["image"],
            output_names=["logits"], dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
        )  # fmt: skip
    return pictures[:512], pictures[1000:], digits[1000:]

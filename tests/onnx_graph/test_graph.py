"""What a file holds: counts on paper, and against PyTorch's own counter."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress_cli.errors import ArtifactError
from compress_cli.onnx_graph.contents import contents


def write(path, nodes, weights, shape=("batch", 3, 8, 8), **settings):
    """A file of these nodes from `x` to `y`; weights by name."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), path, **settings)
    return contents(path)


def f32(*shape):
    return np.ones(shape, np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


CONV = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4)


@pytest.mark.parametrize(
    ("node", "weights", "shape", "macs"),
    [
        # output 5 x 8 x 8, each of 3 * 3 * 3 products
        (CONV, {"w": f32(5, 3, 3, 3), "b": f32(5)}, ("batch", 3, 8, 8), 5 * 64 * 27),
        # the same in a file that insists on 4 samples: still per sample
        (CONV, {"w": f32(5, 3, 3, 3), "b": f32(5)}, (4, 3, 8, 8), 5 * 64 * 27),
        # stride 2 and no padding: 3 x 3 pixels
        (helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2]), {"w": f32(5, 3, 3, 3)}, ("n", 3, 8, 8), 5 * 9 * 27),
        # depthwise: each of 6 channels sees itself
        (helper.make_node("Conv", ["x", "w"], ["y"], group=6), {"w": f32(6, 1, 3, 3)}, ("n", 6, 8, 8), 6 * 36 * 9),
        # two groups: 4 channels, each sees 3 of 6
        (helper.make_node("Conv", ["x", "w"], ["y"], group=2), {"w": f32(4, 3, 1, 1)}, ("n", 6, 8, 8), 4 * 64 * 3),
        # transposed: each of 3 x 8 x 8 inputs goes to 5 x 2 x 2 outputs
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), {"w": f32(3, 5, 2, 2)}, ("n", 3, 8, 8), 3 * 64 * 5 * 4),
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"]), {"w": f32(7, 4), "b": f32(4)}, ("n", 7), 28),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), {"w": f32(4, 7)}, ("n", 7), 28),
        # 9 positions of 7 values times 7 x 4
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"w": f32(7, 4)}, ("n", 9, 7), 9 * 28),
        # attention: two activations, 9 x 7 times 7 x 9
        (helper.make_node("MatMul", ["x", "x"], ["y"]), {}, ("n", 7, 7), 7**3),
    ],
)
def test_counts_on_paper(path, node, weights, shape, macs):
    counts = write(path, [node], weights, shape)
    assert counts.macs == macs
    assert counts.parameters == sum(array.size for array in weights.values())
    assert counts.kinds == ({"float32": counts.parameters} if weights else {})
    assert counts.size_bytes == path.stat().st_size


def test_quantised_weights_count_and_their_scales_do_not(path):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], axis=0),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["y"]),
    ]
    weights = {
        "xs": np.float32(0.1), "xz": np.uint8(3), "w": np.ones((5, 3, 3, 3), np.int8), "ws": f32(5), "wz": np.zeros(5, np.int8),
        "b": np.ones(5, np.int32), "bs": f32(5), "bz": np.zeros(5, np.int32),
    }  # fmt: skip
    counts = write(path, nodes, weights)
    assert counts.kinds == {"int8": 135, "int32": 5}
    assert counts.macs == 5 * 36 * 27


def test_integer_operators(path):
    legend = {"s": np.float32(0.1), "z": np.uint8(0), "wz": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "wz", "s", "z", "b"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    counts = write(path, nodes, {**legend, "w": np.ones((4, 3, 3, 3), np.int8), "b": np.ones(4, np.int32)})
    assert (counts.kinds, counts.macs) == ({"int8": 108, "int32": 4}, 4 * 36 * 27)


def test_dynamic_quantisation(path):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["both"]),
        helper.make_node("Mul", ["f", "both"], ["y"]),
    ]
    weights = {"w": np.ones((7, 4), np.int8), "wz": np.zeros(4, np.int8), "ws": f32(4)}
    counts = write(path, nodes, weights, ("n", 7))
    assert (counts.kinds, counts.macs) == ({"int8": 28}, 28)


def test_four_bits_packed_by_the_runtime(path):
    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=64, N=10, bits=4, block_size=32)
    counts = write(path, [node], {"w": np.zeros((10, 2, 16), np.uint8), "s": f32(20)}, ("n", 64))
    assert (counts.kinds, counts.macs) == ({"uint4": 640}, 640)


def test_shapes_indices_and_normalisation_are_no_parameters(path):
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["g"]),
        helper.make_node("Add", ["g", "extra"], ["y"]),
    ]
    weights = {
        "mean": f32(1, 3, 1, 1), "scale": f32(1, 3, 1, 1), "shape": np.array([-1, 192]), "w": f32(192, 4), "b": f32(4),
        "extra": f32(4),
    }  # fmt: skip
    assert write(path, nodes, weights).parameters == 192 * 4 + 4 + 4


def test_a_constant_node_counts_like_an_initialiser(path):
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(f32(7, 4)))
    counts = write(path, [constant, helper.make_node("MatMul", ["x", "w"], ["y"])], {}, ("n", 7))
    assert (counts.parameters, counts.macs) == (28, 28)


@pytest.mark.parametrize(
    ("nodes", "shape", "reason"),
    [
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], ("n", "length", 7), "input 'x' has an open axis besides the batch"),
        (
            [
                helper.make_node("Secret", ["x"], ["s"], domain="com.microsoft"),
                helper.make_node("MatMul", ["s", "w"], ["y"], name="last"),
            ],
            ("n", 7),
            "whether and how often Secret 's' of com.microsoft multiplies is not known",
        ),
        (
            [helper.make_node("Einsum", ["x", "w"], ["y"], equation="ni,aj->nj", name="e")],
            ("n", 7),
            "Einsum 'e' (ni,aj->nj) are not counted",
        ),
    ],
)
def test_what_can_not_be_known_is_not_guessed(path, nodes, shape, reason):
    counts = write(path, nodes, {"w": f32(7, 4)}, shape)
    assert counts.macs is None
    assert reason in counts.macs_unknown
    assert counts.parameters == 28


def test_stale_shapes_in_the_file_do_not_mislead(path):
    write(path, [CONV, helper.make_node("Relu", ["y"], ["z"])], {"w": f32(5, 3, 3, 3), "b": f32(5)})
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 50, 80, 80)))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    onnx.save(model, path)
    assert contents(path).macs == 5 * 64 * 27


def test_external_data_is_part_of_the_size(path):
    settings = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    counts = write(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": f32(70, 40)}, ("n", 70), **settings)
    assert counts.size_bytes == path.stat().st_size + (path.parent / "weights.bin").stat().st_size
    assert counts.size_bytes > 4 * 2800
    assert (counts.parameters, counts.macs) == (2800, 2800)


@pytest.mark.parametrize("content", [b"", b"this is a text", b"\x08\x0a\x12"])
def test_no_onnx_file(path, content):
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"not an ONNX file|holds no graph"):
        contents(path)
    with pytest.raises(ArtifactError, match="no such file"):
        contents(path.parent / "none.onnx")


def network(name):
    from torch import nn

    from compress_cli.data.signature import Head, Input, Signature
    from compress_cli.networks import restore
    from compress_cli.networks.models.mobilenet_v2 import MobilenetV2
    from compress_cli.networks.models.resnet import Resnet

    if name == "encoder":
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2), (9, 32)
    signature = Signature(inputs={"image": Input(shape=(3, 32, 32))}, heads={"logits": Head(shape=(10,))})
    return restore.build({"resnet": Resnet(depth=20), "mobilenet": MobilenetV2()}[name], signature, 0).network.body, (3, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "mobilenet", "encoder"])
def test_agrees_with_pytorch(path, lively, name):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    net, shape = network(name)
    lively(net)  # equal constants would be stored once
    torch.backends.mha.set_fastpath_enabled(False)  # whose fused operator is not counted
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        net(torch.rand(1, *shape))
    torch.backends.mha.set_fastpath_enabled(True)
    batch = {0: torch.export.Dim("batch")}
    settings = {"dynamo": True, "dynamic_shapes": (batch,), "verbose": False, "external_data": False}
    torch.onnx.export(net, (torch.rand(2, *shape),), path, **settings)
    counts = contents(path)
    assert 2 * counts.macs == counter.get_total_flops()
    norms = [part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    folded = sum(norm.num_features for norm in norms)  # scale into the weights, shift into a bias
    assert counts.parameters == sum(parameter.numel() for parameter in net.parameters()) - folded

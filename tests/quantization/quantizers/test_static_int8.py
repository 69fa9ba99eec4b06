"""Static int8: placement that ONNX Runtime fuses whole, exact reload, and what reduce_range is for."""

import copy
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.errors import StageError
from compress_cli.networks.models import Network
from compress_cli.quantization import opset, ranges, trainable, twins
from compress_cli.quantization.annotation import annotations_of, left_float
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from compress_cli.quantization.tracing import trace

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # files as others make them: the legacy exporter
    pytest.mark.usefixtures("one_thread"),
]
INTEGER = {"QLinearConv", "QLinearAdd", "QGemm", "QLinearConcat", "NhwcMaxPool", "MaxPool"}
INTEGER |= {"QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu"}
FREE = {
    "QuantizeLinear",
    "DequantizeLinear",
    "Transpose",
    "Reshape",
    "Flatten",
    "Pad",
    "Split",
    "Squeeze",
}  # no arithmetic of their own
MOVING = FREE.copy()
FREE |= {"Sub", "Mul", "ReduceMean"}  # normalisation, global average


def conv(inside, outside, stride=1, kernel=3, groups=1):
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outside)
    )


class Plain(nn.Sequential):
    """Convolutions, max-pool, a mean, a linear head."""

    image = (3, 8, 8)

    def __init__(self):
        super().__init__(
            conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Dropout(0.1), nn.Linear(16, 5),
        )  # fmt: skip


class Residual(nn.Module):
    """Blocks as in the CIFAR ResNets, one with a projection."""

    image = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = conv(3, 8), conv(8, 8), conv(8, 8)
        self.c, self.d, self.short = conv(8, 16, 2), conv(16, 16), conv(8, 16, 2, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.b(torch.relu(self.a(x))) + x)
        x = torch.relu(self.d(torch.relu(self.c(x))) + self.short(x))
        return self.fc(x.mean((2, 3)))


class Depthwise(nn.Module):
    """An inverted residual of MobileNetV2, with activations that do reach 6."""

    image = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8), nn.ReLU6())
        self.block = nn.Sequential(
            conv(8, 24, kernel=1), nn.ReLU6(), conv(24, 24, groups=24), nn.ReLU6(), conv(24, 8, kernel=1)
        )
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(functional.adaptive_avg_pool2d(x + self.block(x), 1).flatten(1))


class Perceptron(nn.Sequential):
    image = (1, 4, 4)

    def __init__(self):
        super().__init__(
            nn.Flatten(), nn.Linear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 5)
        )


class Concat(nn.Module):
    """Branches added and joined, max-pool, average pool; a first convolution with enough outputs for filled channels."""

    image = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 16), conv(16, 16), conv(16, 8, kernel=1), conv(40, 16)
        self.fc = nn.Linear(16 * 4, 5)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = functional.max_pool2d(torch.cat([torch.relu(self.b(x) + x), torch.relu(self.c(x)), x], 1), 2)
        return self.fc(functional.avg_pool2d(torch.relu(self.d(x)), 2).flatten(1))


class Shuffle(nn.Module):
    """Channels split, one half passed by, joined and shuffled, as in ShuffleNet."""

    image = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(4, 4), nn.Linear(8 * 64, 5)

    def forward(self, x):
        passed, changed = torch.relu(self.a(x)).chunk(2, 1)
        joined = torch.cat([passed, torch.relu(self.b(changed))], 1)
        return self.fc(joined.unflatten(1, (2, 4)).transpose(1, 2).flatten(1))


class Gated(nn.Module):
    """Squeeze and excite, with the activations of mobile networks."""

    image = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.a, self.b, self.pool = conv(3, 8), conv(8, 16, 2), nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.excite, self.fc = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1), nn.Linear(16, 5)

    def forward(self, x):
        x = functional.hardswish(self.b(functional.silu(self.a(x))))
        gate = functional.hardsigmoid(self.excite(torch.relu(self.squeeze(self.pool(x)))))
        x = functional.leaky_relu(x * gate)
        return self.fc(torch.sigmoid(x).mean((2, 3)))


class Sequence(nn.Sequential):
    """One-dimensional convolutions."""

    image = (3, 16)

    def __init__(self):
        super().__init__(
            nn.Conv1d(3, 8, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 5)
        )


def network(body):
    """With batch norms that do something, in evaluation mode."""
    torch.manual_seed(0)
    net = body()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.2)
    channels = net.image[0]
    image = Input(shape=net.image, mean=(120.0,) * channels, deviation=(60.0,) * channels)
    return Network(net, Signature(inputs={"image": image}, heads={"label": Head(shape=(5,))})).eval()


def pixels(net, samples=64):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(samples, *net.signature.inputs["image"].shape, generator=generator) * 255


def quantised(net, quantizer, x):
    prepared = quantizer.prepare(net, (x[:2],))
    with torch.no_grad():
        prepared(x)
    state = copy.deepcopy(prepared.state_dict())
    return quantizer.convert(prepared), state


def run(path, x):
    """Outputs, and the operators that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(path.with_suffix(".optimised")).graph.node)
    return session.run(None, {"image": x.numpy()})[0], operators


def sqnr_db(reference, other):
    return 10 * np.log10((reference**2).sum() / ((reference - other) ** 2).sum())


KERNELS = {  # integer kernels that ONNX Runtime should run, and how many
    Plain: {"QLinearConv": 2, "QGemm": 1},
    Residual: {"QLinearConv": 6, "QLinearAdd": 2, "QGemm": 1},
    Depthwise: {"QLinearConv": 4, "QLinearAdd": 1, "QGemm": 1},
    Perceptron: {"QGemm": 3},
    Concat: {"QLinearConv": 4, "QLinearAdd": 1, "QLinearConcat": 1, "QLinearAveragePool": 1, "QGemm": 1, "Pad": 1},
    Shuffle: {"QLinearConv": 2, "QLinearConcat": 1, "QGemm": 1},
    Sequence: {"QLinearConv": 2, "QGemm": 1},
    Gated: {"QLinearConv": 4, "QLinearMul": 3, "QLinearSigmoid": 2, "QLinearAdd": 2, "QLinearLeakyRelu": 1, "QGemm": 1},
}
SLOW = (Plain, Residual, Depthwise, Perceptron, Shuffle, Sequence, Gated)  # seconds each, in the exporter
NETWORKS = [Concat, *(pytest.param(body, marks=pytest.mark.slow) for body in SLOW)]


@pytest.mark.parametrize("body", NETWORKS)
def test_every_operator_after_the_normalisation_runs_in_integers(body, tmp_path):
    net, path = network(body), tmp_path / "int8.onnx"
    x = pixels(net)
    converted, _ = quantised(net, StaticInt8(), x)
    Onnx().export(converted, net.signature, (x[:2],), path, {})
    result, operators = run(path, x)
    assert {name: count for name, count in operators.items() if name in KERNELS[body]} == KERNELS[body]
    assert set(operators) <= INTEGER | FREE
    with torch.no_grad():
        original, simulated = net(x)["label"].numpy(), converted(x)["label"].numpy()
    assert sqnr_db(original, simulated) > 28
    assert sqnr_db(original, result) > sqnr_db(original, simulated) - 2


@pytest.mark.parametrize("body", [Plain, Residual, Depthwise, Perceptron, Concat, Sequence])
def test_an_onnx_file_is_quantised_as_whole(body, tmp_path, caplog):
    net, source, path = network(body), tmp_path / "float.onnx", tmp_path / "int8.onnx"
    x = pixels(net)
    torch.onnx.export(
        net, (x[:2],), source, dynamo=False, opset_version=17, input_names=["image"], output_names=["label"],
        dynamic_axes={"image": {0: "batch"}},
    )  # fmt: skip
    model = onnx.load(source)
    onnx.helper.set_model_props(model, {"compress.key": '"k"'})
    onnx.save(model, source)
    facts = StaticInt8().quantize_onnx(source, "float.onnx", ({"image": x[i : i + 16].numpy()} for i in range(0, 64, 16)), path)
    result, operators = run(path, x)
    assert {name: count for name, count in operators.items() if name in KERNELS[body]} == KERNELS[body]
    norms = ["BatchNormalization"] if body is Perceptron else []  # which the legacy exporter leaves behind a Gemm
    computing = {name: count for name, count in operators.items() if name not in INTEGER | MOVING}
    assert Counter(name.partition(": ")[2] for name in facts["left_float"]) == computing  # what the runtime really does
    assert set(operators) <= INTEGER | FREE | {*norms}
    with torch.no_grad():
        assert sqnr_db(net(x)["label"].numpy(), result) > 28
    assert not caplog.records
    assert {entry.key: entry.value for entry in onnx.load(path).metadata_props} == {"compress.key": '"k"'}


def test_reload_is_bit_identical():
    net = network(Residual)
    x = pixels(net)
    converted, state = quantised(net, StaticInt8(), x)
    again = StaticInt8().prepare(network(Residual), (x[:2],))
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == {
        name: tensor.shape for name, tensor in state.items()
    }
    again.load_state_dict(state, strict=True)
    with torch.no_grad():
        assert torch.equal(StaticInt8().convert(again)(x)["label"], converted(x)["label"])


@pytest.mark.parametrize(("reduce_range", "largest"), [(True, 64), (False, 127)])
def test_range_of_weights(reduce_range, largest):
    net = network(Perceptron)
    converted, _ = quantised(net, StaticInt8(reduce_range=reduce_range), pixels(net))
    weights = [tensor for tensor in converted.state_dict().values() if tensor.dtype == torch.int8 and tensor.ndim > 1]
    assert len(weights) == 3
    assert all(int(weight.to(torch.int16).abs().amax(dim=1).min()) == largest for weight in weights)


def test_weights_are_rounded_per_channel_as_computed_by_hand():
    net = network(Perceptron)
    converted, _ = quantised(net, StaticInt8(reduce_range=True), pixels(net))
    weight = net.body[6].weight.detach()  # (5, 12), no batch norm folded
    scale = weight.abs().amax(1, keepdim=True) / 64
    expected = torch.round(weight / scale).clamp(-64, 64).to(torch.int8)
    assert any(torch.equal(tensor, expected) for tensor in converted.state_dict().values())


def test_what_stays_float_is_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), nn.GELU(), nn.Linear(4, 5)

        image = (3, 8, 8)

        def forward(self, x):
            return self.fc(self.act(self.conv(x)).mean((2, 3)))

    net = network(Odd)
    names = left_float(StaticInt8().prepare(net, (pixels(net, 2),)))
    assert names == ["normalise.0: sub", "normalise.0: mul", "body.act: gelu", "body: avg_pool2d"]


def test_twins_of_operators_give_the_same_and_leave_nothing_float():
    net = network(Gated)
    x = pixels(net)
    graph = trace(net, (x[:2],)).module()
    twins.write(graph)
    written = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert [target for target in written for name in ("silu", "hard", "mean", "adaptive") if name in target] == []
    with torch.no_grad():
        torch.testing.assert_close(graph(x)["label"], net(x)["label"], rtol=1e-5, atol=1e-5)
    assert left_float(StaticInt8().prepare(net, (x[:2],))) == ["normalise.0: sub", "normalise.0: mul"]


def test_a_product_with_a_number_has_the_integers_of_the_other_factor():
    """Hard swish and hard sigmoid divide by 6: of their sums the steps become a sixth, and no kernel multiplies."""
    net = network(Gated)
    x = pixels(net)
    converted, _ = quantised(net, StaticInt8(), x)
    calls = [node for node in converted.graph.nodes if node.op == "call_function"]
    products = [
        node for node in calls
        if node.target is torch.ops.aten.mul.Tensor and all("dequantize" in str(each.target) for each in node.all_input_nodes)
    ]  # fmt: skip
    assert len(products) == 3
    rounded = [
        (node.args[0], node.args[1]) for node in calls
        if "dequantize_per_tensor" in str(node.target) and node.args[0].op == "call_function"
    ]  # fmt: skip
    sixths = [codes for codes, step in rounded if step == pytest.approx(codes.args[1] / 6)]
    assert [codes.args[0].target for codes in sixths] == [torch.ops.aten.clamp.default] * 2


@pytest.mark.parametrize("ranges", ["moving", "learned"])
def test_what_is_trained_has_the_places_of_what_ships(ranges):
    net = network(Gated)
    x = pixels(net, 8)
    graph, prepared = StaticInt8().prepare_qat(net, (x[:2],), ranges), StaticInt8().prepare(net, (x[:2],))
    with torch.no_grad():
        prepared(x)
    trainable.begin(graph, prepared)
    trainable.settle(graph, prepared)
    graph.eval()
    with torch.no_grad():
        simulated, integers = graph(x)["label"], StaticInt8().convert(prepared)(x)["label"]
    assert sqnr_db(integers.numpy(), simulated.numpy()) > 30


def test_fixed_products_before_the_first_layer_stay_float():
    """A filter bank that is a buffer is no layer: it prepares the input."""

    class Bands(nn.Module):
        image = (3, 8, 8)

        def __init__(self):
            super().__init__()
            self.register_buffer("bank", torch.rand(6, 8))
            self.fc = nn.Linear(144, 5)

        def forward(self, x):
            return self.fc(torch.log(functional.linear(x, self.bank).square() + 1).flatten(1))

    net = network(Bands)
    prepared = StaticInt8().prepare(net, (pixels(net, 2),))
    assert [name.partition(": ")[2] for name in left_float(prepared)] == ["sub", "mul", "linear", "square", "add", "log"]


def test_a_clamp_that_uint8_can_not_stand_for_is_not_taken_in():
    class Clamped(nn.Sequential):
        image = (3, 8, 8)

    for low, taken in ((0.0, 2), (-1.0, 1)):
        net = network(lambda low=low: Clamped(nn.Conv2d(3, 4, 3), nn.Hardtanh(low, 1.0), nn.Flatten(), nn.Linear(144, 5)))
        first = next(iter(annotations_of(trace(net, (pixels(net, 2),)).module())))
        assert len(first.nodes) == taken


def test_nothing_to_quantise(tmp_path):
    class Empty(nn.Sequential):
        image = (3, 8, 8)

    net = network(lambda: Empty(nn.Flatten(), nn.Softmax(1)))
    with pytest.raises(StageError, match="nothing to quantise"):
        StaticInt8().prepare(net, (pixels(net, 2),))
    torch.onnx.export(net, (pixels(net, 2),), tmp_path / "a.onnx", dynamo=False, opset_version=17)
    with pytest.raises(StageError, match="nothing to quantise"):
        StaticInt8().quantize_onnx(tmp_path / "a.onnx", "a.onnx", iter([]), tmp_path / "b.onnx")


def test_a_quantised_file_is_refused(tmp_path):
    net, path = network(Perceptron), tmp_path / "a.onnx"
    x = pixels(net)
    torch.onnx.export(net, (x[:2],), path, dynamo=False, opset_version=17, input_names=["image"])
    StaticInt8().quantize_onnx(path, "a.onnx", iter([{"image": x[:2].numpy()}]), tmp_path / "b.onnx")
    with pytest.raises(StageError, match="quantised already"):
        StaticInt8().quantize_onnx(tmp_path / "b.onnx", "b.onnx", iter([]), tmp_path / "c.onnx")


def old_file(path, version):
    """A file as published ones are: weights among the inputs (IR 3), batch norm, dropout, a reshape to a constant shape."""
    node, generator = onnx.helper.make_node, np.random.default_rng(0)
    weights = {
        "w": generator.normal(size=(6, 3, 3, 3)), "s": np.ones(6), "b": np.zeros(6), "m": generator.normal(size=6) * 0.1,
        "v": np.full(6, 0.5), "f": generator.normal(size=(5, 54)), "g": generator.normal(size=5),
    }  # fmt: skip
    tensors = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    tensors.append(onnx.numpy_helper.from_array(np.array([-1, 54]), "shape"))
    nodes = [
        node("Conv", ["image", "w"], ["c"], pads=[1] * 4),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[3, 3]),
        node("Dropout", ["p"], ["d"]),
        node("Reshape", ["d", "shape"], ["t"]),
        node("Gemm", ["t", "f", "g"], ["h"], transB=1),
        node("Softmax", ["h"], ["label"], axis=1),
    ]
    ports = [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ("batch", 3, 8, 8))]
    ports += [onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in tensors]
    output = onnx.helper.make_tensor_value_info("label", onnx.TensorProto.FLOAT, ("batch", 5))
    graph = onnx.helper.make_graph(nodes, "old", ports, [output], tensors)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=3), path)
    return path


def pictures(samples=32):
    generator = np.random.default_rng(1)
    return ({"image": generator.normal(size=(8, 3, 8, 8)).astype(np.float32)} for _ in range(samples // 8))


@pytest.mark.parametrize("version", [7, 8, 9, 10, 11, 12])
def test_an_old_opset_is_converted_and_proved(tmp_path, version):
    source, path = old_file(tmp_path / "old.onnx", version), tmp_path / "int8.onnx"
    facts = StaticInt8().quantize_onnx(source, "old.onnx", pictures(), path)
    assert (facts["converted"]["from_opset"], facts["converted"]["to_opset"]) == (version, 13)
    assert facts["converted"]["relative_error"] < 1e-5
    x = next(pictures())
    expected, result = (onnxruntime.InferenceSession(str(file)).run(None, x)[0] for file in (source, path))
    assert sqnr_db(expected, result) > 25
    operators = run(path, torch.from_numpy(x["image"]))[1]
    assert (operators["QLinearConv"], operators["QGemm"]) == (1, 1)


def test_a_conversion_that_changes_the_outputs_is_refused(tmp_path, monkeypatch):
    convert = opset.version_converter.convert_version

    def wrong(model, target):
        later = convert(model, target)
        next(node for node in later.graph.node if node.op_type == "Softmax").op_type = "LogSoftmax"
        return later

    source = old_file(tmp_path / "old.onnx", 9)
    monkeypatch.setattr(opset.version_converter, "convert_version", wrong)
    with pytest.raises(StageError, match=r"old.onnx: opset 9 has no scale per channel; .* converted it gives other outputs"):
        StaticInt8().quantize_onnx(source, "old.onnx", pictures(), tmp_path / "b.onnx")


def test_a_conversion_that_gives_nan_is_refused(tmp_path, monkeypatch):
    convert = opset.version_converter.convert_version

    def wrong(model, target):
        later = convert(model, target)
        scale = next(tensor for tensor in later.graph.initializer if tensor.name == "g")
        scale.CopyFrom(onnx.numpy_helper.from_array(np.full(5, np.nan, np.float32), "g"))
        return later

    monkeypatch.setattr(opset.version_converter, "convert_version", wrong)
    with pytest.raises(StageError, match=r"converted it gives other outputs \(they differ by nan"):
        StaticInt8().quantize_onnx(old_file(tmp_path / "old.onnx", 9), "old.onnx", pictures(), tmp_path / "b.onnx")


def test_what_can_not_be_converted_is_refused_with_the_reason(tmp_path, monkeypatch):
    def fails(model, target):
        raise RuntimeError("No Adapter From Version $8 for Nothing")

    monkeypatch.setattr(opset.version_converter, "convert_version", fails)
    with pytest.raises(StageError, match=r"it can't be converted .*No Adapter From Version"):
        StaticInt8().quantize_onnx(old_file(tmp_path / "old.onnx", 8), "old.onnx", pictures(), tmp_path / "b.onnx")


def test_errors_inside_the_runtime_name_the_users_file(tmp_path, monkeypatch):
    def fails(*arguments, **settings):
        raise KeyError("tensor_7")

    monkeypatch.setattr(ranges, "session", fails)
    with pytest.raises(StageError, match=r"^mine.onnx: ONNX Runtime fails on it \(KeyError: 'tensor_7'\)") as caught:
        StaticInt8().quantize_onnx(old_file(tmp_path / "model.onnx", 13), "mine.onnx", pictures(), tmp_path / "b.onnx")
    assert caught.value.exit_code == 4

"""`compress inspect` and `compress compare`: counts against counting by hand, and what can't be read."""

import gzip
import json
import shutil
import struct

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from safetensors.numpy import save_file


def inspected(compress, *arguments):
    outcome = compress("inspect", *arguments, "--json")
    assert outcome.code == 0, outcome
    return json.loads(outcome.out)


def test_a_float_file(compress, linear_file):
    weight = np.ones((64, 10))
    weight[:16] = 0
    listing = inspected(compress, linear_file(weight, np.ones(10)))
    (layer,) = listing["layers"]
    assert (layer["operator"], layer["shapes"], layer["output"]) == ("Gemm", [[64, 10], [10]], [1, 10])
    assert (layer["parameters"], layer["zeros"], layer["macs"]) == (650, 160, 640)
    assert (listing["parameters"], listing["zeros"], listing["macs"], listing["kinds"]) == (650, 160, 640, {"float32": 650})
    text = compress("inspect", linear_file(weight, np.ones(10))).out
    assert "24.6%" in text  # 160 of 650
    assert "64x10, 10" in text


def test_what_the_bytes_are_spent_on(compress, tmp_path):
    """Twelve weights of rising size: all in the document, the ten largest in the table."""
    weights = {f"w{number:02}": np.full((number + 1, 100), float(number > 0), np.float32) for number in range(12)}
    nodes = [helper.make_node("MatMul", [f"x{name}", name], [f"y{name}"]) for name in weights]
    ports = [helper.make_tensor_value_info(f"x{name}", TensorProto.FLOAT, ("n", len(each))) for name, each in weights.items()]
    outputs = [helper.make_tensor_value_info(f"y{name}", TensorProto.FLOAT, ("n", 100)) for name in weights]
    graph = helper.make_graph(nodes, "g", ports, outputs, [numpy_helper.from_array(array, k) for k, array in weights.items()])
    path = tmp_path / "m.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    listing = inspected(compress, path)["contents"]
    assert [constant["name"] for constant in listing["largest"]] == sorted(weights, reverse=True)
    assert (listing["nonzero"], listing["bytes_by_kind"]) == (7700, {"float32": 4 * 7800})
    assert abs(listing["gzip_bytes"] - len(gzip.compress(path.read_bytes(), 6))) < 20
    lines = compress("inspect", path).out.splitlines()
    assert "parameters that are not 0: 7.70k" in lines
    (size_line,) = (line for line in lines if line.startswith("file: "))
    assert "under gzip" in size_line
    assert "zstd" in size_line  # its size, or how to get it
    assert any(line.startswith("activations: about ") for line in lines)
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("largest constants")) + 1 :]
    assert [line.split()[:3] for line in table if line.strip()] == [
        [f"w{number:02}", "float32", f"{number + 1}x100"] for number in range(11, 1, -1)
    ]


@pytest.fixture
def quantised_file(tmp_path):
    """int8 weights behind DequantizeLinear, a packed 4-bit product, and a weight that nothing multiplies."""
    int8 = np.zeros((8, 3, 3, 3), np.int8)
    int8[0] = 1
    scale, zero = np.float32(0.1), np.int8(0)
    arrays = {
        "w": int8,
        "w_scale": scale,
        "w_zero": zero,
        "q": np.zeros((4, 8, 16), np.uint8),  # K = 256 in blocks of 32, N = 4
        "q_scale": np.ones(32, np.float32),
        "lonely": np.ones(7, np.float32),
    }
    bits = {"K": 256, "N": 4, "bits": 4, "block_size": 32}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"]),
        helper.make_node("Conv", ["x", "wf"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("MatMulNBits", ["flat", "q", "q_scale"], ["y"], "packed", domain="com.microsoft", **bits),
    ]
    ports = [("x", ("n", 3, 6, 6)), ("flat", ("n", 256))]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ports],
        [
            helper.make_tensor_value_info("c", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "q.onnx")
    return tmp_path / "q.onnx"


def test_a_quantised_file(compress, quantised_file):
    listing = inspected(compress, quantised_file)
    layers = {layer["name"]: layer for layer in listing["layers"]}
    conv = layers["conv"]
    assert (conv["kinds"], conv["zeros"], conv["macs"]) == ({"int8": 216}, 216 - 27, 216 * 36)
    assert (layers["packed"]["kinds"], layers["packed"]["macs"]) == ({"uint4": 1024}, 1024)
    assert layers["packed"]["zeros"] is None  # two values a byte
    assert (layers["lonely"]["kinds"], layers["lonely"]["macs"]) == ({"float32": 7}, 0)
    assert listing["zeros"] is None
    assert listing["kinds"] == {"uint4": 1024, "int8": 216, "float32": 7}


def test_tensors_alone(compress, tmp_path):
    arrays = {
        "conv.weight": np.array([[0.0, -0.0], [1, 2]], np.float16),
        "bn.weight": np.ones(3, np.float32),
        "bn.running_mean": np.zeros(3, np.float32),
    }
    save_file(arrays, tmp_path / "w.safetensors")
    listing = inspected(compress, tmp_path / "w.safetensors")
    assert (listing["parameters"], listing["zeros"], listing["macs"]) == (7, 2, None)
    assert {layer["name"]: layer["kinds"] for layer in listing["layers"]} == {"bn": {"float32": 3}, "conv": {"float16": 4}}


@pytest.fixture
def checkpoint(tmp_path):
    """A Checkpoint's folder: an MLP 64-8-10 whose first layer is half zeros."""
    from compress_cli.data.datasets.digits import Digits
    from compress_cli.networks import restore
    from compress_cli.networks.models.mlp import Mlp
    from compress_cli.store.artifact import Checkpoint, Draft

    restored = restore.build(Mlp(hidden=(8,)), Digits().signature(), 0)
    first = next(weight for weight in restored.network.body.parameters() if weight.dim() == 2)
    first.data[:4] = 0
    folder = tmp_path / "stage"
    folder.mkdir()
    restore.save(restored, folder)
    Draft(Checkpoint, "k", {"type": "train"}).commit(folder)
    return folder


def test_a_checkpoint(compress, checkpoint):
    listing = inspected(compress, checkpoint)
    assert listing["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert listing["macs"] == 64 * 8 + 8 * 10
    assert listing["zeros"] == 64 * 4
    assert sum(layer["macs"] for layer in listing["layers"]) == listing["macs"]


def test_an_open_axis_gets_its_length_from_the_command_line(compress, linear_file):
    path = linear_file(np.ones((64, 10)), shape=("batch", 1, "height", 8))
    assert inspected(compress, path)["macs"] is None
    assert inspected(compress, path, "--shape", "image=1x1x8x8")["macs"] == 640
    assert inspected(compress, path, "--shape", "image=4x1x8x8")["macs"] == 640
    assert compress("inspect", path, "--shape", "7").code == 2
    slip = compress("inspect", path, "--shape", "imag=1x1x8x8")
    assert (slip.code, "has no input 'imag'" in slip.err, "did you mean 'image'?" in slip.err) == (3, True, True)
    measured = json.loads(compress("eval", path, "--shape", "image=1x1x8x8", "--seconds", "0.01", "--json").out)
    assert measured["contents"]["macs"] == 640


def broken(tmp_path, how):
    path = tmp_path / "x.safetensors"
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    data = b"\0" * 8
    match how:
        case "missing":
            return path
        case "empty":
            path.write_bytes(b"")
            return path
        case "short":
            data = b"\0" * 7
        case "shape":
            header["a"]["shape"] = [3]
        case "negative":
            header["a"]["data_offsets"] = [-8, 0]
        case "no offsets":
            del header["a"]["data_offsets"]
    text = b"[1]" if how == "list" else json.dumps(header).encode()
    length = 2**60 if how == "length" else len(text)
    path.write_bytes(struct.pack("<Q", length) + text + data)
    return path


@pytest.mark.parametrize("how", ["missing", "empty", "short", "shape", "negative", "no offsets", "list", "length"])
def test_broken_tensors(compress, tmp_path, how):
    outcome = compress("inspect", broken(tmp_path, how))
    assert (outcome.code, outcome.out) == (3, ""), outcome
    assert "there is no such file" in outcome.err if how == "missing" else "not a whole safetensors file" in outcome.err


def test_what_is_no_model(compress, tmp_path, checkpoint):
    assert compress("inspect", tmp_path / "none.onnx").code == 3
    (tmp_path / "text.onnx").write_text("no model")
    assert compress("inspect", tmp_path / "text.onnx").code == 3
    (tmp_path / "folder").mkdir()
    assert "holds no artifact" in compress("inspect", tmp_path / "folder").err
    (checkpoint / "weights.safetensors").write_bytes(b"other")
    assert compress("inspect", checkpoint).code == 3


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../secret.bin", "outside its folder"),
        ("/etc/passwd", "outside its folder"),
        ("missing.bin", "its weights lie in another file, which is missing"),
        ("link.bin", "outside its folder"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "eval"])
def test_external_data_is_read_from_its_own_folder_only(compress, tmp_path, linear_file, command, location, message):
    import onnx

    model = onnx.load(linear_file(np.ones((64, 10))))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    (tmp_path / "secret.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "link.bin").symlink_to(tmp_path / "secret.bin")
    save(model, tmp_path / "sub" / "m.onnx")
    outcome = compress(command, tmp_path / "sub" / "m.onnx")
    assert (outcome.code, message in outcome.err) == (3, True), outcome


def test_compare_puts_two_files_side_by_side(compress, digits_file, linear_file):
    good, weight, bias = digits_file()
    worse = weight.copy()
    worse[:, 3] = 0
    old = linear_file(worse, bias, name="old.onnx")
    arguments = ("compare", old, good, "--data", "digits", "--threads", "1")
    outcome = compress(*arguments)
    assert outcome.code == 0, outcome
    for text in ("before: ", "old.onnx", "1.00x smaller", "accuracy %", ": better", "cross_entropy", "x faster ["):
        assert text in outcome.out
    found = json.loads(compress(*arguments, "--json").out)
    assert found["model"].endswith("model.onnx")
    before = found["against"]["metrics"]["accuracy"]["value"]
    assert found["metrics"]["accuracy"]["value"] - before == pytest.approx(found["against"]["change"]["value"])
    shutil.copy(good, good.with_name("same.onnx"))
    same = compress("compare", good, good.with_name("same.onnx"))
    assert "no data named" in same.out
    assert compress("compare", good, "none.onnx").code == 3

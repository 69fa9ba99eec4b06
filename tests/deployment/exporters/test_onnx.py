"""ONNX files: names, open batch, the same bytes, no leavings, and refusals that name the operator."""

import json
import re

import onnx
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.deployment.exporters import Exporter
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.errors import StageError
from compress_cli.measurement import sessions
from compress_cli.networks.models import Network

IMAGE, ROW = Input(shape=(1, 4, 4), mean=(8.0,), deviation=(4.0,)), Input(shape=(3,))
SIGNATURE = Signature(inputs={"image": IMAGE, "row": ROW}, heads={"class": Head(shape=(5,)), "angle": Head(shape=(1,))})
EXAMPLE = (torch.rand(2, 1, 4, 4), torch.rand(2, 3))


class TwoInTwoOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc, self.drop = nn.Linear(7, 5), nn.Dropout(0.5)

    def forward(self, image, row):
        seen = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        joined = self.drop(torch.cat([seen, row], 1))
        return {"angle": joined.sum(1, keepdim=True), "class": self.fc(joined)}  # not in the signature's order


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network(TwoInTwoOut(), SIGNATURE).eval()


def test_file_gives_what_pytorch_gives_under_the_signatures_names_and_nothing_else_is_in_it(network, tmp_path, capfd):
    path, again = tmp_path / "a.onnx", tmp_path / "b.onnx"
    Onnx().export(network, SIGNATURE, EXAMPLE, path, {"compress.key": '"k"'})
    Onnx().export(network, SIGNATURE, EXAMPLE, again, {"compress.key": '"k"'})
    assert capfd.readouterr() == ("", "")
    assert path.read_bytes() == again.read_bytes()
    session = sessions.open_session(path)
    assert {name: port.shape for name, port in session.inputs.items()} == {"image": (None, 1, 4, 4), "row": (None, 3)}
    assert session.metadata == {"compress.key": '"k"'}
    image, row = torch.rand(7, 1, 4, 4) * 16, torch.rand(7, 3)
    outputs = session.run({"image": image.numpy(), "row": row.numpy()})
    with torch.no_grad():
        expected = network(image, row)
    assert set(outputs) == {"class", "angle"}
    for name, head in expected.items():
        torch.testing.assert_close(torch.from_numpy(outputs[name]), head, rtol=1e-5, atol=1e-5)
    model = onnx.load(path)
    assert (model.opset_import[0].version, model.ir_version) == (20, 10)
    assert {port.type.tensor_type.shape.dim[0].dim_param for port in (*model.graph.input, *model.graph.output)} == {"batch"}
    assert "body.conv.weight" in {tensor.name for tensor in model.graph.initializer}
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    numbers = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert path.stat().st_size - numbers < 2000


@pytest.mark.slow
@pytest.mark.parametrize(("opset", "ir"), [(18, 8), (25, 13)])
def test_other_versions(network, tmp_path, opset, ir):
    Onnx(opset=opset, ir=ir).export(network, SIGNATURE, EXAMPLE, tmp_path / "a.onnx", {})
    model = onnx.load(tmp_path / "a.onnx")
    assert (model.opset_import[0].version, model.ir_version) == (opset, ir)
    sessions.open_session(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"opset": 17}, "greater than or equal to 18"), ({"opset": 26}, "less than"), ({"opset": 25}, "opset 25 needs ir 13")],
)
def test_versions_that_do_not_go_together(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Exporter.model_validate({"type": "onnx", **settings})


def test_an_operator_that_onnx_lacks_is_named(tmp_path, capfd):
    class Bessel(nn.Module):
        def forward(self, x):
            return {"y": torch.special.bessel_j0(x)}

    signature = Signature(inputs={"x": ROW}, heads={"y": Head(shape=(3,))})
    with pytest.raises(StageError, match=r"ONNX \(opset 20\) has no counterpart of the operator \S*bessel_j0$"):
        Onnx().export(Bessel(), signature, (torch.rand(2, 3),), tmp_path / "a.onnx", {})
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "a.onnx").exists()


def test_a_file_with_packed_weights_says_what_its_bytes_are(tmp_path):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 10))
    body[0].weight.data *= torch.rand(80, 64) < 0.05
    signature = Signature(inputs={"x": Input(shape=(64,))}, heads={"y": Head(shape=(10,))})
    sparse, path = Network(body, signature).eval(), tmp_path / "a.onnx"
    Onnx().export(sparse, signature, (torch.rand(2, 64),), path, {"compress.key": '"k"'})
    nonzero, metadata = int((body[0].weight != 0).sum()), sessions.open_session(path).metadata
    account = json.loads(metadata["compress.storage"])
    assert account["values"] >= 4 * nonzero
    assert account["dense"] == 4 * (80 + 800 + 10)
    assert sum(account.values()) == path.stat().st_size
    x = torch.rand(7, 64)
    with torch.no_grad():
        expected = sparse(x)["y"]
    torch.testing.assert_close(torch.from_numpy(sessions.open_session(path).run({"x": x.numpy()})["y"]), expected)

    Onnx(storage="dense").write(onnx.load(path), tmp_path / "dense.onnx", {"compress.key": '"k"'})
    assert sessions.open_session(tmp_path / "dense.onnx").metadata == {"compress.key": '"k"'}
    dense = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "dense.onnx").graph.initializer}
    assert dense["body.0.weight"].tolist() in (body[0].weight.tolist(), body[0].weight.T.tolist())


def test_a_form_that_saves_nothing_is_refused(linear_file, tmp_path):
    path = linear_file(torch.rand(64, 30))
    for storage in ("bitmask", "index_delta", "codebook", "index_delta+codebook"):
        with pytest.raises(StageError, match=rf"storage: {re.escape(storage)} makes no weight tensor smaller"):
            Onnx(storage=storage).write(onnx.load(path), tmp_path / "a.onnx", {})
    with pytest.raises(ValidationError, match="storage"):
        Onnx(storage="zip")


class Positioned(nn.Module):
    """Attention with a learned bias between positions, looked up in a table (BEiT's)."""

    def __init__(self):
        super().__init__()
        self.qkv, self.fc, self.table = nn.Linear(16, 48), nn.Linear(16, 4), nn.Parameter(torch.randn(5, 2))
        self.register_buffer("index", torch.arange(25).reshape(5, 5) % 5)

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, self.table[self.index].permute(2, 0, 1)[None])
        return self.fc(mixed.transpose(1, 2).reshape(n, t, width).mean(1))


def test_attention_with_a_learned_bias_is_exported(tmp_path):
    torch.manual_seed(0)
    signature = Signature(inputs={"x": Input(shape=(5, 16))}, heads={"logits": Head(shape=(4,))})
    network = Network(Positioned(), signature).eval()
    Onnx().export(network, signature, (torch.randn(2, 5, 16),), tmp_path / "m.onnx", {})
    x = torch.randn(3, 5, 16)
    found = sessions.open_session(tmp_path / "m.onnx", 1).run({"x": x.numpy()})["logits"]
    torch.testing.assert_close(torch.from_numpy(found), network(x)["logits"].detach(), rtol=1e-4, atol=1e-5)

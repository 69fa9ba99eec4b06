"""PyTorch's table of translations is made once, and the files are the same."""

import torch
from torch.onnx._internal.exporter import _registration

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.deployment.exporters import _translations
from compress_cli.deployment.exporters.onnx import Onnx


def test_the_second_export_makes_no_table_and_the_same_file(tmp_path, monkeypatch):
    made, make = [], _registration.ONNXRegistry.from_torchlib
    monkeypatch.setattr(_translations, "_tables", {})
    monkeypatch.setattr(_registration.ONNXRegistry, "from_torchlib", lambda *_, **options: made.append(1) or make(**options))
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(dim=1)).eval()
    signature = Signature(inputs={"x": Input(shape=(4,))}, heads={"logits": Head(shape=(3,))})

    class Named(torch.nn.Module):
        def forward(self, x):
            return {"logits": network(x)}

    files = [tmp_path / "first.onnx", tmp_path / "second.onnx"]
    for path in files:
        Onnx().export(Named().eval(), signature, (torch.zeros(2, 4),), path, {})
    assert made == [1]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_others_get_their_own_tables():
    before = vars(_registration.ONNXRegistry)["from_torchlib"]
    with _translations.kept():
        assert vars(_registration.ONNXRegistry)["from_torchlib"] is not before
    assert vars(_registration.ONNXRegistry)["from_torchlib"] is before


def test_an_operator_that_is_registered_later_has_its_translation(monkeypatch):
    registered = ["aten::relu"]
    monkeypatch.setattr(_translations, "_tables", {})
    monkeypatch.setattr(torch._C, "_dispatch_get_all_op_names", lambda: registered)
    monkeypatch.setattr(_registration.ONNXRegistry, "from_torchlib", lambda *_: tuple(registered))
    with _translations.kept():
        assert _registration.ONNXRegistry.from_torchlib() == ("aten::relu",)
        registered.append("quantized_decomposed::quantize_per_tensor")
        assert _registration.ONNXRegistry.from_torchlib() == tuple(registered)

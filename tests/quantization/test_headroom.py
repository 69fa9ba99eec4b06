"""Weights of few bits use the room of eight: the same numbers, with biases that ONNX Runtime rounds less."""

import operator

import numpy as np
import pytest
import torch
from torch import nn

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.measurement.sessions import open_session
from compress_cli.quantization import headroom
from compress_cli.quantization.pairs import LARGEST_BIAS
from compress_cli.quantization.quantizers.static_int8 import StaticInt8

SIGNATURE = Signature(inputs={"image": Input(shape=(3, 8, 8))}, heads={"y": Head(shape=(5,))})


class Net(nn.Module):
    """Two convolutions, the second used twice, and a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.signature = SIGNATURE

    def forward(self, image):
        x = self.one(image).relu()
        return {"y": self.fc(self.two(self.two(x).relu()).relu().mean((2, 3)))}


def program(network, images, bits, reduce_range=False):
    quantizer = StaticInt8.model_validate({"reduce_range": reduce_range, "overrides": [{"layers": "*", "weights": bits}]})
    prepared = quantizer.prepare(network.eval(), (images,))
    prepared(images)
    return quantizer.convert(prepared)


def weights(converted):
    """Layer -> its integers and its steps."""
    found = {}
    for node in converted.graph.nodes:
        if "dequantize_per_channel" in str(node.target):
            codes, steps = (operator.attrgetter(argument.target)(converted) for argument in node.args[:2])
            found[node.args[0].target] = codes, steps
    return found


@pytest.fixture
def images():
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("reduce_range", "largest"), [(False, 127), (True, 63)])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_weight_stays_what_it_was(bits, reduce_range, largest, images, monkeypatch):
    network = Net()
    with torch.no_grad():
        network.one.weight[3] = 0
    spread = program(network, images, bits, reduce_range)
    monkeypatch.setattr(headroom, "use", lambda *args, **more: None)
    plain = program(network, images, bits, reduce_range)
    with torch.no_grad():
        assert torch.equal(spread(images)["y"], plain(images)["y"])
    for name, (codes, steps) in weights(spread).items():
        before, coarse = weights(plain)[name]
        shape = [-1] + [1] * (codes.ndim - 1)
        assert torch.equal(codes * steps.reshape(shape), before * coarse.reshape(shape)), name
        assert len(codes.unique()) <= max(2**bits - 1, len(before.unique()))
        if codes.ndim == 4 and bits < 8:
            extremes = codes.flatten(1).abs().amax(1)[before.flatten(1).any(1)]
            assert ((extremes > largest // 2) & (extremes <= largest)).all(), name


def test_onnx_runtime_gives_what_the_program_gives(images, tmp_path, monkeypatch):
    """Biases of half a step of the sums are lost in the steps of 2-bit weights; those of eight bits hold them."""
    network = Net()
    with torch.no_grad():
        for layer in (network.one, network.two):
            layer.bias.copy_(torch.linspace(-0.02, 0.02, 8))

    def errors(name):
        converted, path = program(network, images, 2), tmp_path / name
        Onnx().export(converted, SIGNATURE, (images[:2],), path, {})
        with torch.no_grad():
            return np.abs(open_session(path).run({"image": images.numpy()})["y"] - converted(images)["y"].numpy()).mean()

    fine = errors("fine.onnx")
    monkeypatch.setattr(headroom, "use", lambda *args, **more: None)
    assert fine < errors("coarse.onnx") / 3


def test_a_bias_keeps_its_room_in_32_bits(images):
    network = Net()
    with torch.no_grad():
        network.one.bias[2] = 3e5
    converted = program(network, images, 2)
    codes, steps = weights(converted)["one.weight"]
    step = next(node.args[1] for node in converted.graph.nodes if "quantize_per_tensor" in str(node.target))
    sums = network.one.bias.detach().double().abs() / (step * steps.double())
    assert (sums <= LARGEST_BIAS).all()
    assert codes[2].abs().max() < 64 <= codes[3].abs().max()

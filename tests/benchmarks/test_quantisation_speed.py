"""What integers bring on this machine, and what it takes to make them and to train through the rounding.

python -m pytest tests/benchmarks/test_quantisation_speed.py -m slow -s
"""

import time

import numpy as np
import pytest
import torch
from torch.nn import functional

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.measurement import latency
from compress_cli.measurement.sessions import open_session
from compress_cli.networks import restore
from compress_cli.networks.models import Model
from compress_cli.quantization import processor, trainable
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from tests.benchmarks.test_quantised_files import pictures

pytestmark = pytest.mark.slow

NETWORKS = {  # side of the pictures, times as fast as float where sums are exact; elsewhere 1.3
    "resnet18": ({"type": "torchvision", "name": "resnet18"}, 224, 3.4),
    "mobilenet_v2": ({"type": "torchvision", "name": "mobilenet_v2"}, 224, 2.2),
    "resnet56": ({"type": "resnet", "depth": 56}, 32, 2.2),
    "mobilenet_v3_small": ({"type": "torchvision", "name": "mobilenet_v3_small"}, 224, 1.0),
}


def built(model, side, classes=10):
    """A network whose batch norms have the statistics of such pictures."""
    signature = Signature(inputs={"image": Input(shape=(3, side, side))}, heads={"logits": Head(shape=(classes,))})
    network = restore.build(Model.model_validate(model), signature, 0).network.train()
    with torch.no_grad():
        for seed in range(4):
            network(torch.from_numpy(pictures(16, (3, side, side), seed)))
    return network.eval(), signature


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_are_faster_than_float(name, tmp_path, one_thread):
    model, side, times = NETWORKS[name]
    network, signature = built(model, side)
    images = torch.from_numpy(pictures(16, (3, side, side), 9))
    quantizer = StaticInt8()
    prepared = quantizer.prepare(network, (images[:2],))
    with torch.no_grad():
        prepared(images)
    paths = [tmp_path / "float.onnx", tmp_path / "int8.onnx"]
    for path, module in zip(paths, (network, quantizer.convert(prepared)), strict=True):
        Onnx().export(module, signature, (images[:2],), path, {})
    feeds = {"image": images[:1].numpy()}
    timed = latency.compare(*(open_session(path, 1) for path in paths), (feeds, feeds), seconds=2.0)
    print(f"\n{name}: {timed.speedup.value:.2f}x [{timed.speedup.low:.2f}, {timed.speedup.high:.2f}], {timed.verdict}")
    assert timed.speedup.high >= (times if processor.sums_are_exact() else min(times, 1.3))


def test_a_resnet_18_is_quantised_in_a_minute(one_thread):
    """256 pictures of 224 x 224, as `quantize` takes them: 32 at once."""
    network, _ = built({"type": "torchvision", "name": "resnet18"}, 224)
    images = torch.from_numpy(pictures(256, (3, 224, 224), 0))
    begun = time.process_time()
    quantizer = StaticInt8()
    prepared = quantizer.prepare(network, (images[:2],))
    with torch.no_grad():
        for part in images.split(32):
            prepared(part)
    quantizer.convert(prepared)
    seconds = time.process_time() - begun
    print(f"\n{seconds:.0f} s of processor time")
    assert seconds < 120  # 60 s on two cores


@pytest.mark.parametrize("ranges", ["moving", "learned"])
def test_a_step_through_the_rounding_costs_at_most_two_and_a_half_float_ones(ranges, one_thread):
    network, _ = built({"type": "torchvision", "name": "resnet18"}, 64)
    images, labels = torch.from_numpy(pictures(32, (3, 64, 64), 0)), torch.arange(32) % 10
    quantizer = StaticInt8()
    calibrated = quantizer.prepare(network, (images[:2],))
    with torch.no_grad():
        calibrated(images)
    graph = quantizer.prepare_qat(network, (images[:2],), ranges)
    trainable.begin(graph, calibrated)
    steps = [(module.train(), torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9)) for module in (network, graph)]
    seconds = [[], []]
    for _ in range(12):
        for (module, optimizer), times in zip(steps, seconds, strict=True):
            begun = time.process_time()
            functional.cross_entropy(module(images)["logits"], labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.process_time() - begun)
    plain, rounded = (np.median(times[2:]) for times in seconds)
    print(f"\n{ranges}: {rounded / plain:.2f} float steps of {1000 * plain:.0f} ms")
    assert rounded < 2.5 * plain

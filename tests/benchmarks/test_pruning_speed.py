"""How long a cut takes, and what it buys in ONNX Runtime at half the multiply-accumulates.

python -m pytest tests/benchmarks/test_pruning_speed.py -m slow -s
"""

import time

import pytest
import torch

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.measurement import example, latency, sessions
from compress_cli.networks import narrowing, proof, restore
from compress_cli.networks.models.resnet import Resnet
from compress_cli.networks.models.torchvision import Torchvision
from compress_cli.networks.narrowing import Proof
from compress_cli.pruning import widths
from compress_cli.pruning.cost import Cost
from compress_cli.pruning.criteria.l2 import L2
from compress_cli.stages import _cut, _importance

pytestmark = pytest.mark.slow


def network_of(model, side, classes):
    spec = Input(shape=(3, side, side), mean=(124.0, 116.0, 104.0), deviation=(58.0, 57.0, 57.0))
    signature = Signature(inputs={"image": spec}, heads={"logits": Head(shape=(classes,))})
    network = restore.build(model, signature, 0).network.eval()
    return network, (torch.randn(_cut.PROBES, 3, side, side, generator=torch.Generator().manual_seed(0)),)


def cut(network, inputs, targets, proven=None):
    """Cut a network to shares of its MACs, one after the other; the share that remains."""
    body, whole = network.body, None
    for share in targets:
        proof = Proof(body, inputs)
        groups, _ = _cut.cuttable(body, inputs, (), proof, proven)
        cost = Cost(body, inputs, groups)
        whole = whole or cost.macs()
        proven = groups
        choices = widths.choices([(group.channels, group.multiple, group.fixed) for group in groups], "auto")
        kept = widths.affordable(share * whole, cost.macs, choices)
        removed = [_importance.lowest(L2()(group, {}), count) for group, count in zip(groups, kept, strict=True)]
        _cut.check_cut(proof, groups, removed)
        narrowing.narrow(body, groups, removed)
    return Cost(body, inputs).macs() / whole


def seconds(work):
    """By the processor's clock of this process on one thread, which other processes hardly change; and by the wall's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    begun, wall = time.process_time(), time.perf_counter()
    try:
        result = work()
    finally:
        torch.set_num_threads(before)
    return time.process_time() - begun, time.perf_counter() - wall, result


def test_a_resnet_50_is_followed_and_cut_in_five_seconds():
    network, inputs = network_of(Torchvision(name="resnet50"), 224, 1000)
    taken, wall, share = seconds(lambda: cut(network, inputs, [0.5]))
    print(f"\nResNet-50, followed, proved and cut to {share:.3f} of its MACs: {taken:.1f} s ({wall:.1f} s by the wall)")
    assert share == pytest.approx(0.5, rel=0.02)
    assert taken < 5


def test_a_resnet_56_is_cut_in_ten_steps_in_ten_seconds():
    network, inputs = network_of(Resnet(depth=56), 32, 10)
    taken, wall, share = seconds(lambda: cut(network, inputs, [1 - 0.05 * step for step in range(1, 11)]))
    print(f"\nResNet-56, ten steps to {share:.3f} of its MACs: {taken:.1f} s ({wall:.1f} s by the wall)")
    assert share == pytest.approx(0.5, rel=0.02)
    assert taken < 10


@pytest.mark.parametrize(
    ("name", "model", "side"),
    [("ResNet-56", Resnet(depth=56), 32), ("MobileNetV2", Torchvision(name="mobilenet_v2"), 224)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_half_the_macs_are_faster_in_onnx_runtime(tmp_path, name, model, side):
    network, inputs = network_of(model, side, 10)
    files = {}
    for label in ("whole", "half"):
        files[label] = tmp_path / f"{label}.onnx"
        Onnx().export(network, network.signature, proof.example(network.signature), files[label], {})
        if label == "whole":
            share = cut(network, inputs, [0.5])
    pair = [sessions.open_session(path, 1) for path in files.values()]
    feeds = tuple(example.synthetic(session, 1) for session in pair)
    result = latency.compare(*pair, feeds, seconds=2.0)
    speedup = result.speedup
    interval = f"[{speedup.low:.2f}, {speedup.high:.2f}]"
    print(f"\n{name} at {share:.3f} of its MACs: x{speedup.value:.2f} {interval} ({result.verdict})")
    assert speedup.value >= 1.7

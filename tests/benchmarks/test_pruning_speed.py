"""How long a cut takes, and what it buys in ONNX Runtime at half the multiply-accumulates.

python -m pytest tests/benchmarks/test_pruning_speed.py -m slow -s
"""

import copy
import time

import numpy as np
import pytest
import torch

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.measurement import example, latency, sessions
from compress_cli.networks import narrowing, proof, restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mobilenet_v2 import MobilenetV2
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


def in_turn(opened, feed, rounds):
    """(rounds, sessions): processor seconds of six runs each, which other processes disturb less than the wall's."""
    taken = np.zeros((rounds, len(opened)))
    for turn in taken:
        for number, session in enumerate(opened):
            session.run(feed)
            begun = time.process_time()
            for _ in range(6):
                session.run(feed)
            turn[number] = time.process_time() - begun
    return taken


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
    whole, half = in_turn(pair, feeds[0], rounds=40).T
    low, middle, high = np.quantile(whole / half, [0.25, 0.5, 0.75])
    print(f"by the processor's clock: x{middle:.2f}, middle half [{low:.2f}, {high:.2f}]")
    assert speedup.value >= 1.7


@pytest.mark.parametrize(
    ("name", "model", "side"),
    [
        ("ResNet-20", Resnet(), 32),
        ("MobileNetV2", MobilenetV2(), 64),
        ("convnet", Convnet(widths=(64, 128, 256)), 32),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_auto_rounds_to_what_is_fastest_at_half_the_macs(tmp_path, name, model, side):
    """By the processor's clock, on one thread: files that are rounded otherwise take turns."""
    network, inputs = network_of(model, side, 10)
    groups, _ = _cut.cuttable(network.body, inputs, (), Proof(network.body, inputs))
    cost, files, shares = Cost(network.body, inputs, groups), {}, {}
    for round_to in (1, 8, 16, 32, "auto"):
        choices = widths.choices([(group.channels, group.multiple, group.fixed) for group in groups], round_to)
        kept = widths.affordable(0.5 * cost.macs(), cost.macs, choices)
        shares[round_to], narrower = cost.macs(kept) / cost.macs(), copy.deepcopy(network)
        removed = [torch.arange(count, group.channels) for group, count in zip(groups, kept, strict=True)]
        narrowing.narrow(narrower.body, groups, removed)
        files[round_to] = tmp_path / f"{round_to}.onnx"
        Onnx().export(narrower, network.signature, proof.example(network.signature), files[round_to], {})
    opened = [sessions.open_session(path, 1) for path in files.values()]
    taken = dict(zip(files, in_turn(opened, example.synthetic(opened[0], 1), rounds=25).T, strict=True))
    for round_to, times in taken.items():
        low, middle, high = np.quantile(times / taken["auto"], [0.25, 0.5, 0.75])
        spread = f"{middle:.2f} [{low:.2f}, {high:.2f}] of auto's time"
        print(f"\n{name}, round_to {round_to}: {shares[round_to]:.3f} of the MACs, {spread}", end="")
        if abs(shares[round_to] - 0.5) <= 0.01:  # others do not come to the same cost
            assert middle > 0.9, round_to

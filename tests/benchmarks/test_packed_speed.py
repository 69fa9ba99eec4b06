"""A sparse ResNet-18 as a small file: as fast as the dense one, and what opening it costs.

python -m pytest tests/benchmarks/test_packed_speed.py -m slow -s
"""

import numpy as np
import onnx
import pytest
import torch

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.measurement import latency, start_up
from compress_cli.measurement.sessions import open_session
from compress_cli.networks.models import Network

pytestmark = pytest.mark.slow
SIGNATURE = Signature(inputs={"image": Input(shape=(3, 224, 224))}, heads={"logits": Head(shape=(1000,))})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A ResNet-18 of which 10% of the weights remain, dense and packed."""
    import torchvision

    folder = tmp_path_factory.mktemp("sparse")
    torch.manual_seed(0)
    body = torchvision.models.resnet18(weights=None)
    for module in body.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            weight = module.weight.data
            weight *= weight.abs() > weight.abs().flatten().kthvalue(int(0.9 * weight.numel())).values
    paths = folder / "packed.onnx", folder / "dense.onnx"
    Onnx().export(Network(body, SIGNATURE).eval(), SIGNATURE, (torch.rand(2, 3, 224, 224),), paths[0], {})
    Onnx(storage="dense").write(onnx.load(paths[0]), paths[1], {})
    return paths


def test_it_is_seven_times_smaller_and_as_fast(files):
    packed, dense = files
    assert dense.stat().st_size > 7 * packed.stat().st_size
    feeds = {"image": np.random.default_rng(0).random((1, 3, 224, 224), np.float32)}
    sessions = [open_session(path, 1) for path in (dense, packed)]
    assert np.array_equal(*(session.run(feeds)["logits"] for session in sessions))
    compared = latency.compare(*sessions, (feeds, feeds), seconds=3.0)
    sizes = [path.stat().st_size for path in (dense, packed)]
    speedup = compared.speedup
    interval = f"x{speedup.value:.3f} [{speedup.low:.3f}, {speedup.high:.3f}]"
    print(f"\n{sizes[0] / sizes[1]:.2f} times smaller; {interval} as fast as dense ({compared.verdict})")
    assert compared.verdict != "slower"
    assert 0.95 < compared.speedup.value < 1.05


def test_opening_takes_less_than_a_second_and_little_memory(files):
    packed, dense = (start_up.measure(path) for path in files)
    for name, opened in (("packed", packed), ("dense", dense)):
        print(f"\n{name}: opened in {opened.opened_in_ms:.0f} ms, {opened.peak_bytes / 2**20:.0f} MiB at most", end="")
    assert packed.opened_in_ms < 1000 + dense.opened_in_ms
    assert packed.peak_bytes < dense.peak_bytes + 24 * 11_700_000  # each value some six times in 4 bytes

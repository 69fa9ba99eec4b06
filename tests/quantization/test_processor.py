"""Processors without VNNI add two products of 8-bit integers in 16 bits, and cut off what does not fit."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compress_cli.quantization import processor
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from tests.quantization.small_files import convolutions, normal


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(architecture, flags): a processor that names these."""

    def _machine(architecture, flags=None):
        monkeypatch.setattr(processor.platform, "machine", lambda: architecture)
        info = tmp_path / "cpuinfo"
        info.unlink(missing_ok=True)
        if flags is not None:
            info.write_text(f"processor : 0\nflags : fpu {flags}\n")
        monkeypatch.setattr(processor, "CPU_INFO", info)
        processor.sums_are_exact.cache_clear()

    yield _machine
    monkeypatch.undo()
    processor.sums_are_exact.cache_clear()


@pytest.mark.parametrize(
    ("architecture", "flags", "exact"),
    [
        ("x86_64", "avx2 avx512f avx512_vnni", True), ("x86_64", "avx2 avx_vnni", True), ("x86_64", "avx2 avx512f", False),
        ("x86_64", None, False), ("aarch64", None, True), ("arm64", None, True),
    ],
)  # fmt: skip
def test_vnni_and_arm_sum_exactly(architecture, flags, exact, machine):
    machine(architecture, flags)
    assert processor.sums_are_exact() is exact
    assert StaticInt8().resolved().reduce_range is not exact


def saturated(activations, weights):
    """(N, K) uint8, (out, K) int8 -> (N, out): sums as vpmaddubsw makes them, each two products cut off at 16 bits."""
    odd = weights.shape[1] % 2
    left, right = (np.pad(array.astype(np.int64), ((0, 0), (0, odd))) for array in (activations, weights))
    products = left[:, None] * right[None]  # (N, out, K)
    return np.clip(products[..., ::2] + products[..., 1::2], -(2**15), 2**15 - 1).sum(-1)


@pytest.mark.parametrize(("flags", "agree"), [("avx2", True), ("avx512_vnni", False)])
def test_a_file_made_where_sums_overflow_has_weights_that_do_not(flags, agree, machine, tmp_path):
    """A file made on a machine with VNNI would give other sums on one without."""
    machine("x86_64", flags)
    source = tmp_path / "float.onnx"
    onnx.save(convolutions(), source)
    quantizer = StaticInt8().resolved()
    facts = quantizer.quantize_onnx(source, "float.onnx", [{"image": normal(8, 3, 8, 8)}], tmp_path / "int8.onnx")
    assert facts["reduce_range"] is agree
    tensors = map(numpy_helper.to_array, onnx.load(tmp_path / "int8.onnx").graph.initializer)
    layers = [array.reshape(len(array), -1) for array in tensors if array.dtype == np.int8 and array.ndim > 1]
    assert len(layers) == 4
    exact = []
    for weights in layers:
        bright = np.where(weights > 0, 255, 0).astype(np.uint8)  # the input that makes a channel's sums as large as can be
        exact.append(np.array_equal(saturated(bright, weights), bright.astype(np.int64) @ weights.astype(np.int64).T))
    assert all(exact) is agree

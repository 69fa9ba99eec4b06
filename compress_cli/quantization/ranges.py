"""Histograms of the values inside an ONNX graph, from one pass over samples that come batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from compress_cli.errors import StageError
from compress_cli.quantization.calibrations import Calibration
from compress_cli.quantization.histogram import Histogram
from compress_cli.quantization.source import failures_of_onnxruntime

Batch = dict[str, np.ndarray]
WILD, FAR = 1e5, 100.0  # magnitudes: always, and where a gap tells
GAP, FEW = 0.8, 1e-3  # shares of the range that is empty, and of values that are no outliers any more
PIECE = 8  # samples that run at once


def session(model: onnx.ModelProto, outputs: Sequence[str] = (), plain: bool = False) -> onnxruntime.InferenceSession:
    """The graph in ONNX Runtime, with these inner values as further outputs.

    plain: run it as written, without integer kernels: so it computes alike on every processor.
    """
    present = {output.name for output in model.graph.output}
    wanted = [name for name in dict.fromkeys(outputs) if name not in present]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted)
    try:
        extended = model.SerializeToString()
    finally:
        del model.graph.output[len(present) :]  # a copy of the model would hold its weights once more
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_BASIC if plain else level.ORT_ENABLE_ALL
    if plain:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(extended, options, providers=["CPUExecutionProvider"])


def values(model: onnx.ModelProto, names: Sequence[str], batches: Iterable[Batch], plain: bool = False) -> Iterator[Batch]:
    """For each batch the values of these names; inputs among them are taken as they are."""
    yield from map(_opened(model, names, plain), batches)


def _opened(model: onnx.ModelProto, names: Sequence[str], plain: bool = False) -> Callable[[Batch], Batch]:
    """Gives the values of these names for a batch."""
    inner = [name for name in names if name not in {port.name for port in model.graph.input}]
    running = session(model, inner, plain)

    def _run(batch: Batch) -> Batch:
        results = dict(zip(inner, running.run(inner, batch), strict=True)) if inner else {}
        return {name: results[name] if name in results else batch[name] for name in names}

    return _run


def first(batches: Iterable[Batch], count: int) -> tuple[list[Batch], Iterator[Batch]]:
    """The first batches, of `count` samples or a few more, in memory, and those that follow."""
    samples: list[Batch] = []
    coming, number = iter(batches), 0
    for batch in coming:
        samples.append(batch)
        number += max((len(array) for array in batch.values() if array.ndim), default=1)
        if number >= count:
            break
    return samples, coming


def measure(model: onnx.ModelProto, names: Sequence[str], batches: Iterable[Batch], file: str) -> dict[str, Histogram]:
    """Value -> how its numbers are distributed. StageError where there is no sample, or one is infinite or gives NaN."""
    histograms = {name: Histogram() for name in names}
    with failures_of_onnxruntime(file):
        run = _opened(model, names)
    for batch in pieces(model, batches):  # reading it is not the runtime's work, nor are its failures
        with failures_of_onnxruntime(file):
            found = run(batch)
        for name, array in found.items():
            histograms[name].add(array)
    ports = {port.name for port in model.graph.input}
    for name, histogram in histograms.items():
        if histogram.high == -math.inf and not histogram.total:
            raise StageError(f"{file}: there are no calibration samples, and static ranges need some")
        if not math.isnan(histogram.high) and not (name in ports and not histogram.is_finite):
            continue
        raise StageError(
            f"{file}: the value '{name}' is NaN or infinite on calibration samples; check these samples and the training of "
            "the model"
        )
    return histograms


def is_wild(histogram: Histogram) -> bool:
    """Whether 256 steps would say nothing of most values, since others stand for minus infinity: as in a mask of -1e4.

    Those are far off, with nothing between them and the values near 0, and too many to be outliers."""
    if not histogram.is_finite or max(-histogram.low, histogram.high) > WILD:
        return True
    if max(-histogram.low, histogram.high) < FAR:
        return False
    counts, edges = histogram.bins()
    occupied = np.flatnonzero(counts)
    gaps = np.diff(occupied)
    if not len(gaps) or gaps.max() < GAP * len(counts):
        return False
    border = int(occupied[gaps.argmax()]) + 1  # the first empty bin
    sides = counts[:border].sum(), counts[border:].sum()
    far = sides[0] if edges[border] < 0 else sides[1]
    return bool(far > FEW * counts.sum())


def pieces(model: onnx.ModelProto, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches in pieces of a few samples, where the file takes any number: all inner values of a piece are in memory."""
    axes = [port.type.tensor_type.shape.dim for port in model.graph.input]
    is_open = all(len(axis) > 0 and not axis[0].HasField("dim_value") for axis in axes)
    for batch in batches:
        sizes = {len(array) if array.ndim else 0 for array in batch.values()}
        step = PIECE if is_open and len(sizes) == 1 else max(sizes)
        for start in range(0, max(sizes), max(step, 1)):
            yield {name: array[start : start + step] if array.ndim else array for name, array in batch.items()}


def ranges(histograms: dict[str, Histogram], calibration: Calibration, bits: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Value -> (low, high); `bits` where they are not 8."""
    return {
        name: calibration.range(histogram, 2 ** bits.get(name, 8) - 1) if histogram.limit else (0.0, 0.0)
        for name, histogram in histograms.items()
    }


def counted(array: np.ndarray) -> Histogram:
    """The numbers of a constant."""
    histogram = Histogram()
    histogram.add(array.astype(np.float32))
    return histogram


def of_constant(array: np.ndarray) -> tuple[float, float]:
    """The range of a constant: all of its numbers."""
    return min(float(array.min(initial=0)), 0.0), max(float(array.max(initial=0)), 0.0)


def facts(histogram: Histogram, limits: tuple[float, float], factor: float, bits: int) -> dict[str, Any]:
    """What a report says of the values that go into a layer, which are `factor` times those counted."""
    return {
        "activation_bits": bits,
        "activation_range": [limit * factor for limit in limits],
        "activation_clipped": histogram.share_outside(*limits),
    }

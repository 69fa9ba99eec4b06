"""Older ONNX files in a later version of the operators, proved to give the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import version_converter

from compress_cli.errors import StageError
from compress_cli.onnx_graph import graph

TRIALS = 3
TOLERANCE = 1e-4
"""Largest difference that sums in another order explain, as a share of the largest output."""


version = graph.opset


def converted(
    model: onnx.ModelProto, target: int, example: dict[str, np.ndarray], name: str, lack: str
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model in a later opset, and the proof: both run on inputs like `example`, its own first.

    name: what the user calls the file. lack: what the older opset can't do, for messages.
    StageError where it can't be converted, or gives something else then.
    """
    start = version(model)
    try:
        later = version_converter.convert_version(model, target)
    except MemoryError:
        raise
    except Exception as error:  # the converter raises whatever its code stumbles over
        reason = " ".join(str(error).split())[-200:]
        raise StageError(f"{name}: {_needed(start, target, lack)}, and it can't be converted ({reason})") from None
    later.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for(list(later.opset_import)))
    difference = 0.0
    for inputs in _trials(example):
        expected, results = _outputs(model, inputs, name, start), _outputs(later, inputs, name, target)
        difference = float(np.max([difference, *(_difference(*pair) for pair in zip(expected, results, strict=True))]))
    if not difference <= TOLERANCE:  # NaN fails too
        raise StageError(
            f"{name}: {_needed(start, target, lack)}, and converted it gives other outputs (they differ by {difference:.2g} of "
            f"the largest; allowed: {TOLERANCE:g})"
        )
    return later, {"from_opset": start, "to_opset": target, "relative_error": difference, "trials": TRIALS}


def note(facts: dict[str, Any]) -> str:
    """The proof in words."""
    texts = "converted from opset {from_opset} to {to_opset}; outputs differ by {relative_error:.1g} of the largest"
    return texts.format(**facts)


def _needed(start: int, target: int, lack: str) -> str:
    return f"opset {start} {lack}; export it with opset {target} or later"


def _trials(example: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The example, then arrays of its values in random order: valid numbers of a token too."""
    yield example
    generator = np.random.default_rng(0)
    for _ in range(TRIALS - 1):
        yield {
            name: generator.permutation(array.reshape(-1)).reshape(array.shape).astype(array.dtype)
            for name, array in example.items()
        }


def _outputs(model: onnx.ModelProto, inputs: dict[str, np.ndarray], name: str, opset: int) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, inputs))
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime's errors derive from Exception alone
        reason = " ".join(str(error).split())[:200]
        raise StageError(f"{name}: ONNX Runtime can't run it in opset {opset} ({reason})") from None


def _difference(expected: Any, result: Any) -> float:
    """Largest difference as a share of the largest value; infinite where types, shapes or whole numbers differ."""
    if not isinstance(expected, np.ndarray) or not isinstance(result, np.ndarray):
        return 0.0 if expected == result else float("inf")
    if expected.shape != result.shape or expected.dtype != result.dtype:
        return float("inf")
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(expected, result) else float("inf")
    if not expected.size or np.array_equal(expected, result, equal_nan=True):
        return 0.0
    return float(np.abs(expected - result).max() / max(float(np.abs(expected).max()), np.finfo(np.float32).tiny))

"""Whether the values that a file is fed look like those it was made for."""

from __future__ import annotations

import numpy as np
import onnx

from compress_cli.measurement.sessions import Feeds, Session
from compress_cli.onnx_graph import files
from compress_cli.onnx_graph.card import Card

LOOKED_AT = 16  # samples
RAW = 20.0  # values that were scaled or normalised stay below: 0..1, -1..1, or a few standard deviations
ACCEPTED = "takes_raw_values"  # in a file's metadata: whoever loaded it said how it is fed
UNCHANGED = {"Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Pad", "Slice", "Resize", "Split",
             "Concat", "Gather", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}  # fmt: skip
"""Operators that leave values in the range they had."""
WEIGHTED = {"Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv", "QLinearConv", "QLinearMatMul",
            "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"}  # fmt: skip
"""Operators whose weights were trained for inputs of one range."""


def warning(session: Session, feeds: Feeds) -> str:
    """What looks wrong with raw pictures, 0..255, that reach the first weights as they are; empty where nothing does.

    A file with a card was exported here and takes what its dataset gives.
    """
    raw = [name for name, array in feeds.items() if _is_picture(array) and float(np.abs(array).max()) > RAW]
    if not raw or ACCEPTED in session.metadata or Card.from_metadata(session.metadata) is not None:
        return ""
    graph = files.load(session.path).graph
    unscaled = [name for name in raw if _reaches_weights(graph, name)]
    if not unscaled:
        return ""
    name = unscaled[0]
    return (
        f"input '{name}' holds values up to {float(np.abs(feeds[name]).max()):.0f}, and the file does nothing to them before "
        "its first weights: if it was trained on scaled pictures, its figures here are wrong. Tell how it was fed, with "
        "--preprocess scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225 or other values (in a recipe, the field "
        "'preprocess' of the stage 'load'); scale=1 says that raw values are right"
    )


def _is_picture(array: np.ndarray) -> bool:
    """(samples, channels, height, width) or (samples, height, width, channels), with one, three or four channels."""
    return (
        array.ndim == 4 and array.size > 0 and array.dtype.kind in "fu" and bool({1, 3, 4} & {array.shape[1], array.shape[3]})
    )


def _reaches_weights(graph: onnx.GraphProto, name: str) -> bool:
    """Whether an input reaches an operator with weights without one before it that could scale or shift it."""
    reached = {name}
    for node in graph.node:  # in the order of computation
        if not reached & {*node.input}:
            continue
        if node.op_type in WEIGHTED:
            return True
        if node.op_type in UNCHANGED:
            reached.update(node.output)
    return False

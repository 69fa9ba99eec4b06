"""Joins (`Concat`, `torch.cat`) that stay float: their result has one range, of which an operand may get too few steps.

A class token that starts with a deviation of 0.02 lies beside patches that are a hundred times as large: one step or none
of the 255 is its own, and the layer normalisation behind makes the rounding as large as the token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from torch import nn
from torch.fx import GraphModule, Node

from compress_cli.quantization import annotation, grids, layers, ranges
from compress_cli.quantization.annotation import Annotation
from compress_cli.quantization.calibrations import Calibration
from compress_cli.quantization.histogram import Histogram, with_zero
from compress_cli.quantization.placement import CONTRACTIONS, MOVES, RECTIFIERS, Placement

VERSION = 1  # of what stays float by these rules
STARVED = 28.0
"""Decibels of an operand over its rounding, below which its join stays float. An XCiT with operands of 24.6 and 26.1 dB had
14.6 dB with their joins in integers, 36.6 in float; those of convolutional networks have 36 and more."""
GAIN = 12.0
"""Decibels (two bits) that sharing costs at least: an operand far below its own extremes gains nothing by a float join."""
STEPS = 255


@dataclass(frozen=True)
class Starved:
    """An operand that gets too few steps of the range of its join's result."""

    join: str
    operand: str
    steps: float  # root of its mean square, in steps of the shared range
    sqnr_db: float  # over its rounding to these steps
    own_sqnr_db: float  # to those of its own range


Range = Callable[[], tuple[float, float]]


def starved(join: str, operands: Iterable[tuple[str, Histogram, Range]], joined: Histogram, shared: Range) -> Iterator[Starved]:
    """The operands of a join that get too few steps. Ranges take long: they are found where the extremes tell."""
    for operand, histogram, own in operands:
        if not histogram.limit or not histogram.is_finite or not joined.is_finite:
            continue  # zeros alone are exact in any range
        if sqnr_db(histogram, *with_zero(joined.low, joined.high)) >= STARVED:
            continue  # in the widest range that a calibration gives
        low, high = shared()
        decibels, best = sqnr_db(histogram, low, high), sqnr_db(histogram, *own())
        if decibels < min(STARVED, best - GAIN):
            yield Starved(join, operand, _root_mean_square(histogram) * STEPS / (high - low), decibels, best)


def sqnr_db(histogram: Histogram, low: float, high: float) -> float:
    """Signal over the noise of rounding to 8 bits of a range, without that of cutting off; infinite where there is none."""
    counts, values = _values(histogram)
    values = np.clip(values, low, high)
    scale, zero = grids.affine_parameters(low, high, 0, STEPS)
    rounded = (grids.affine(values, scale, zero, 0, STEPS) - zero) * scale
    signal, noise = (float((counts * np.square(part)).sum()) for part in (values, values - rounded))
    return 10 * float(np.log10(max(signal, 1e-30) / noise)) if noise else np.inf


def facts(found: Iterable[Starved]) -> list[dict[str, Any]]:
    """What a report says of operands whose joins stay float."""
    return [asdict(operand) for operand in found]


def note(found: list[dict[str, Any]]) -> str:
    """The same in words."""
    worst = min(found, key=lambda entry: entry["sqnr_db"])
    others = len({entry["join"] for entry in found}) - 1
    return (
        f"the join '{worst['join']}'{f' and {others} more stay' if others else ' stays'} float: of the 255 steps of one range "
        f"for all of it, '{worst['operand']}' would get {worst['steps']:.2g} ({worst['sqnr_db']:.0f} dB over its rounding; "
        f"{worst['own_sqnr_db']:.0f} dB in a range of its own)"
    )


def in_file(
    simple: onnx.ModelProto, places: Placement, histograms: dict[str, Histogram], calibration: Calibration
) -> list[Starved]:
    """Of an ONNX graph: the operands that starve. Not those of joins that only contractions read, whose input has one range
    anyway, or whose result was to have fewer bits than 8."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in simple.graph.node:
        for name in layers.read(node):
            users.setdefault(name, []).append(node)
    constants = {tensor.name for tensor in simple.graph.initializer}

    def counted(value: str) -> Histogram | None:
        root, factor = places.root(value)
        if root in constants:
            return ranges.counted(layers.array(simple, root)).times(factor)
        return histograms[root].times(factor) if root in histograms else None

    def range_of(value: str) -> tuple[float, float]:
        root, factor = places.root(value)
        if root in constants:
            return ranges.of_constant(layers.array(simple, root))
        low, high = calibration.range(histograms[root], STEPS)
        return low * factor, high * factor

    found: list[Starved] = []
    for node in places.nodes.values():
        if node.op_type != "Concat" or _feeds_contractions(node.output[0], users, places):
            continue
        result = _result(node, users, places)
        joined = counted(result)
        if joined is None or places.bits.get(places.root(result)[0], 8) != 8:
            continue
        operands = [
            (name, histogram, partial(range_of, name))
            for name in dict.fromkeys(node.input) if name in places.range_of and (histogram := counted(name)) is not None
        ]  # fmt: skip
        found += starved(node.output[0], operands, joined, partial(range_of, result))
    return found


def _result(join: onnx.NodeProto, users: dict[str, list[onnx.NodeProto]], places: Placement) -> str:
    """The value that it rounds to: that of the rectifier behind it where there is one."""
    name: str = join.output[0]
    rectifiers = [user for user in users.get(name, []) if user.op_type in RECTIFIERS]
    return str(rectifiers[0].output[0]) if rectifiers and name not in places.range_of else name


def _feeds_contractions(name: str, users: dict[str, list[onnx.NodeProto]], places: Placement) -> bool:
    """Whether nothing but contractions in integers reads a value, as it is or moved."""

    def ends(user: onnx.NodeProto) -> bool:
        is_moved = user.op_type in MOVES and all(_feeds_contractions(output, users, places) for output in user.output)
        return user.name in places.nodes and (user.op_type in CONTRACTIONS or is_moved)

    return bool(users.get(name)) and all(map(ends, users[name]))


def leave_float(prepared: nn.Module) -> list[Starved]:
    """Let joins whose operands starve compute in float, in a graph whose observers were calibrated; these operands.

    What read their rounded results reads the exact ones, but for kernels that go on in integers.
    """
    assert isinstance(prepared, GraphModule)
    found = [
        operand for node in prepared.graph.nodes if node.target in annotation.JOINS for operand in _starved(prepared, node)
    ]
    if not found:
        return []
    nodes = {node.name: node for node in prepared.graph.nodes}
    plain = _unobserved(prepared)
    learned = [node for node in plain.graph.nodes if annotation.is_learned(node)]
    floating = {annotation.layer_of(node) for node in learned if nodes[node.name].args[1].op == "get_attr"}
    before = list(annotation.annotations_of(plain, floating))
    after = list(annotation.annotations_of(plain, floating, {operand.join for operand in found}))
    for source, user in _rounded(before) - _rounded(after):
        for reader in [reader for reader in nodes[source].users if _observer(prepared, reader) is not None]:
            nodes[user].replace_input_with(reader, nodes[source])
    for name in _nodes(before) - _nodes(after):
        nodes[name].meta.pop(annotation.ANNOTATION, None)
    for node in reversed(list(prepared.graph.nodes)):
        if not node.users and _observer(prepared, node) is not None:
            prepared.graph.erase_node(node)
    prepared.recompile()
    return found


def _starved(prepared: GraphModule, join: Node) -> Iterator[Starved]:
    observers = [observer for user in join.users if (observer := _observer(prepared, user)) is not None]
    if not observers or _ends_in_contractions(prepared, join):
        return
    operands = [
        (str(value.args[0]), observer.histogram, partial(_range, observer))
        for value in join.all_input_nodes if (observer := _observer(prepared, value)) is not None
    ]  # fmt: skip
    yield from starved(join.name, operands, observers[0].histogram, partial(_range, observers[0]))


def _observer(prepared: GraphModule, node: Any) -> Any:
    """What a node counts with; None where it is no observer of activations."""
    module = prepared.get_submodule(str(node.target)) if isinstance(node, Node) and node.op == "call_module" else None
    return module if hasattr(module, "histogram") else None


def _range(observer: Any) -> tuple[float, float]:
    low, high = observer.range
    return float(low), float(high)


def _ends_in_contractions(prepared: GraphModule, node: Node) -> bool:
    """Whether nothing but contractions in integers reads a value, as it is or moved."""
    rounded = [user for user in node.users if _observer(prepared, user) is not None]
    readers = [reader for user in rounded for reader in user.users]

    def ends(user: Node) -> bool:
        is_moved = user.target in annotation.MOVES and _ends_in_contractions(prepared, user)
        return user.target in annotation.CONTRACTIONS or is_moved

    return bool(readers) and len(rounded) == len(node.users) and all(map(ends, readers))


def _unobserved(prepared: GraphModule) -> GraphModule:
    """The graph as it was annotated, with the same names; it shares the weights."""
    plain = GraphModule(prepared, copy.deepcopy(prepared.graph))
    for node in list(plain.graph.nodes):
        if node.op == "call_module" and "post_process" in str(node.target):
            node.replace_all_uses_with(node.args[0])
            plain.graph.erase_node(node)
    return plain


def _rounded(annotations: Collection[Annotation]) -> set[tuple[str, str]]:
    """The names of values and of what reads them rounded."""
    pairs = set()
    for entry in annotations:
        last = entry.nodes[-1]
        pairs |= {(last.name, user.name) for user in last.users if not entry.open and not entry.multiple}
        pairs |= {(value.name, entry.nodes[0].name) for value in entry.inputs if not annotation.is_multiple(value)}
    return pairs


def _nodes(annotations: Collection[Annotation]) -> set[str]:
    return {node.name for entry in annotations for node in entry.nodes}


def _values(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the bins that hold values, and a value for each."""
    counts, edges = histogram.bins()
    centres = np.clip((edges[1:] + edges[:-1]) / 2, histogram.low, histogram.high)
    return counts[counts > 0], centres[counts > 0]


def _root_mean_square(histogram: Histogram) -> float:
    counts, values = _values(histogram)
    return float(np.sqrt((counts * np.square(values)).sum() / counts.sum()))

"""The time of a file node by node, and of the float islands in an int8 graph."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto
from pydantic import BaseModel, ConfigDict

from compress_cli.errors import StageError
from compress_cli.measurement.sessions import Options, open_session
from compress_cli.store.scratch import scratch

RUNS, WARM_UP = 30, 5
NODES = 20  # the costliest
SCALAR = 8  # bytes: constants that are no larger are no weights
END = "_kernel_time"
BORDERS = {"QuantizeLinear", "DequantizeLinear"}
INTEGER = {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"}

Node = tuple[str, str, int]
"""Name and operator of a node, and how many nodes before it have the same: names need not be unique."""
NodeTimes = dict[Node, list[float]]
"""Node -> ms of each run."""


class NodeTime(BaseModel):
    """One node of the graph as ONNX Runtime has rewritten it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    operator: str
    time_ms: float
    """In one run: the median."""
    share: float
    """Of all nodes' time."""


class Island(BaseModel):
    """Connected nodes that compute in float, between a dequantisation and the next quantisation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nodes: list[str]
    time_ms: float
    """Of its nodes."""
    borders_ms: float
    """Of the conversions around it."""
    share: float
    """Of both in all nodes' time."""


class FloatPart(BaseModel):
    """A node of an int8 graph that computes in float."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Of its weights, where it has any, else of its result."""
    operator: str
    time_share: float
    """Of all nodes' time."""
    bytes_share: float
    """Of its constants in the bytes of all constants."""


class Profile(BaseModel):
    """The time of each node, the costliest first. Measuring it takes time too: their sum is no latency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: int
    total_ms: float
    nodes: list[NodeTime]
    """The twenty costliest."""
    operators: dict[str, float]
    """Operator -> its share of the time."""
    islands: list[Island]
    floating: list[FloatPart] = []
    """What computes in float in a graph that has integers, the costliest first; conversions to and from integers are not among
    them, nor is the dequantisation of a head."""


def profile(
    path: Path, feeds: dict[str, np.ndarray], threads: int | None = None, options: Options | None = None, runs: int = RUNS
) -> Profile:
    """Run a file some thirty times under ONNX Runtime's own profiler, whose files are deleted afterwards."""
    with scratch("profile") as folder:
        session = open_session(path, threads, options, folder)
        for _ in range(WARM_UP + runs):
            session.run(feeds)
        events = json.loads(Path(session.raw.end_profiling()).read_text())
        try:
            graph = onnx.load(folder / "optimised.onnx", load_external_data=False).graph
        except (OSError, DecodeError):  # a provider that compiles its graph leaves none
            graph = onnx.GraphProto()
    return summary(_by_run(events), graph)


def summary(times: NodeTimes, graph: onnx.GraphProto) -> Profile:
    """The profile of node times in a graph."""
    medians = {node: float(np.median(runs_ms)) for node, runs_ms in times.items()}
    total = sum(medians.values())
    if not total:
        raise StageError("ONNX Runtime's profiler gave no times of nodes")
    operators: dict[str, float] = defaultdict(float)
    for (_, operator, _), time_ms in medians.items():
        operators[operator] += time_ms / total
    costliest = sorted(medians.items(), key=lambda item: -item[1])[:NODES]
    return Profile(
        runs=max(map(len, times.values())),
        total_ms=total,
        nodes=[
            NodeTime(name=name, operator=operator, time_ms=time_ms, share=time_ms / total)
            for (name, operator, _), time_ms in costliest
        ],
        operators=dict(sorted(operators.items(), key=lambda item: -item[1])),
        islands=_islands(graph, medians, total),
        floating=_float_parts(graph, medians, total),
    )


def has_integers(path: Path) -> bool:
    """Whether a file computes in integers, at least in part: it rounds values that flow through it."""
    graph = onnx.load(path, load_external_data=False).graph
    rounding = {"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
    return any(node.op_type in rounding for node in graph.node)


def _float_parts(graph: onnx.GraphProto, medians: dict[Node, float], total: float) -> list[FloatPart]:
    """The nodes that compute in float, the costliest first; none where the graph has no integers."""
    if not _integers(graph):
        return []
    times = _times(graph, medians)
    sizes = {tensor.name: _bytes(tensor) for tensor in graph.initializer}
    whole = sum(sizes.values()) or 1
    parts = []
    for position in _floating(graph):
        node = graph.node[position]
        weights = max((name for name in node.input if name in sizes), key=lambda name: sizes[name], default="")
        named = weights if sizes.get(weights, 0) > SCALAR else node.name or node.output[0]
        stored = sum(sizes.get(name, 0) for name in node.input)
        parts.append(
            FloatPart(name=named, operator=node.op_type, time_share=times[position] / total, bytes_share=stored / whole)
        )
    return sorted(parts, key=lambda part: (-part.time_share, -part.bytes_share))


def _bytes(tensor: TensorProto) -> int:
    return len(tensor.raw_data) or math.prod(tensor.dims) * 4


def _by_run(events: list[dict[str, object]]) -> NodeTimes:
    """The times of each run after the warm-up, from the profiler's events."""
    runs: list[list[tuple[str, str, float]]] = [[]]
    for event in sorted(events, key=lambda event: float(str(event.get("ts", 0)))):
        name, arguments = str(event.get("name", "")), event.get("args")
        if event.get("cat") == "Session" and name == "model_run" and runs[-1]:
            runs.append([])
        if event.get("cat") == "Node" and name.endswith(END) and isinstance(arguments, dict):
            runs[-1].append((name.removesuffix(END), str(arguments.get("op_name", "")), float(str(event["dur"])) / 1e3))
    times: NodeTimes = defaultdict(list)
    for run in [run for run in runs if run][WARM_UP:]:
        seen: Counter[tuple[str, str]] = Counter()
        for name, operator, time_ms in run:
            times[name, operator, seen[name, operator]].append(time_ms)
            seen[name, operator] += 1
    return times


def _islands(graph: onnx.GraphProto, medians: dict[Node, float], total: float) -> list[Island]:
    """Connected float nodes with integers before and after them, the costliest first."""
    times = _times(graph, medians)
    links = _links(graph)
    group_of = _groups(_floating(graph), links)
    borders: dict[int, set[int]] = defaultdict(set)  # group -> the conversions around it
    entered, left = set(), set()
    for before, after in links:
        if graph.node[before].op_type == "DequantizeLinear" and after in group_of:
            entered.add(group_of[after])
            borders[group_of[after]].add(before)
        elif before in group_of and graph.node[after].op_type == "QuantizeLinear":
            left.add(group_of[before])
            borders[group_of[before]].add(after)
    islands = []
    for group in entered & left:
        inside = [position for position in sorted(group_of) if group_of[position] == group]
        time_ms, borders_ms = (sum(times[position] for position in positions) for positions in (inside, borders[group]))
        names = [f"{graph.node[position].op_type} {graph.node[position].name}".strip() for position in inside]
        islands.append(Island(nodes=names, time_ms=time_ms, borders_ms=borders_ms, share=(time_ms + borders_ms) / total))
    return sorted(islands, key=lambda island: -island.share)


def _times(graph: onnx.GraphProto, medians: dict[Node, float]) -> list[float]:
    """The time of each node, in ms; 0 for one that the profiler does not name."""
    seen: Counter[tuple[str, str]] = Counter()
    times = []
    for node in graph.node:
        times.append(medians.get((node.name, node.op_type, seen[node.name, node.op_type]), 0.0))
        seen[node.name, node.op_type] += 1
    return times


def _links(graph: onnx.GraphProto) -> list[tuple[int, int]]:
    """Positions of nodes of which the second uses a value of the first."""
    makers = {name: position for position, node in enumerate(graph.node) for name in node.output if name}
    return [(makers[name], position) for position, node in enumerate(graph.node) for name in node.input if name in makers]


def _floating(graph: onnx.GraphProto) -> set[int]:
    """Positions of the nodes that compute in float."""
    integers = _integers(graph)
    return {
        position
        for position, node in enumerate(graph.node)
        if node.op_type not in BORDERS | INTEGER and not integers & {*node.input, *node.output}
    }


def _groups(members: set[int], links: list[tuple[int, int]]) -> dict[int, int]:
    """Member -> the number of its connected group."""
    neighbours: dict[int, set[int]] = defaultdict(set)
    for before, after in links:
        if before in members and after in members:
            neighbours[before].add(after)
            neighbours[after].add(before)
    group_of: dict[int, int] = {}
    for first in sorted(members):
        waiting = [first]
        while waiting:
            position = waiting.pop()
            if position not in group_of:
                group_of[position] = first
                waiting.extend(neighbours[position])
    return group_of


def _integers(graph: onnx.GraphProto) -> set[str]:
    """Names of values of 8 bits or fewer: quantised activations and integer weights."""
    small = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
    names = {tensor.name for tensor in graph.initializer if tensor.data_type in small}
    values = (*graph.value_info, *graph.input, *graph.output)
    names |= {value.name for value in values if value.type.tensor_type.elem_type in small}
    for node in graph.node:  # the runtime's own operators have no inferred types
        if node.op_type == "QuantizeLinear" or (node.op_type.startswith("QLinear") and node.op_type != "QLinearSoftmax"):
            names.update(node.output)
    return names

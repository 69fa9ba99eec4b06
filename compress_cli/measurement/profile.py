"""Where the time of a file goes, node by node, and which float islands of an int8 graph cost it."""

from __future__ import annotations

import json
from collections import defaultdict
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
END = "_kernel_time"
BORDERS = {"QuantizeLinear", "DequantizeLinear"}
INTEGER = {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"}


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
    """Nodes that compute in float, between where integers become real numbers and where they are rounded again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nodes: list[str]
    time_ms: float
    """Of its nodes."""
    borders_ms: float
    """Of the conversions around it."""
    share: float
    """Of both in all nodes' time."""


class Profile(BaseModel):
    """What each node takes; the costliest come first. Taking these times costs time: their sum is no latency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: int
    total_ms: float
    nodes: list[NodeTime]
    """The twenty costliest."""
    operators: dict[str, float]
    """Operator -> its share of the time."""
    islands: list[Island]


def profile(path: Path, feeds: dict[str, np.ndarray], threads: int | None = None, options: Options | None = None) -> Profile:
    """Run a file some thirty times under ONNX Runtime's own profiler. Its files are gone afterwards."""
    with scratch("profile") as folder:
        session = open_session(path, threads, options, folder)
        for _ in range(WARM_UP + RUNS):
            session.run(feeds)
        events = json.loads(Path(session.raw.end_profiling()).read_text())
        try:
            graph = onnx.load(folder / "optimised.onnx", load_external_data=False).graph
        except (OSError, DecodeError):  # a provider that compiles its graph leaves none
            graph = onnx.GraphProto()
    return summary(_by_run(events), graph)


def summary(times: dict[tuple[str, str, int], list[float]], graph: onnx.GraphProto) -> Profile:
    """The profile of node times (name, operator, how many of that name come before -> ms of each run) in a graph."""
    middle = {node: float(np.median(each)) for node, each in times.items()}
    total = sum(middle.values())
    if not total:
        raise StageError("ONNX Runtime's profiler gave no times of nodes")
    operators: dict[str, float] = defaultdict(float)
    for (_, operator, _), each in middle.items():
        operators[operator] += each / total
    costly = sorted(middle.items(), key=lambda each: -each[1])
    return Profile(
        runs=max(map(len, times.values())),
        total_ms=total,
        nodes=[
            NodeTime(name=name, operator=operator, time_ms=each, share=each / total)
            for (name, operator, _), each in costly[:NODES]
        ],
        operators=dict(sorted(operators.items(), key=lambda each: -each[1])),
        islands=_islands(graph, middle, total),
    )


def _by_run(events: list[dict[str, object]]) -> dict[tuple[str, str, int], list[float]]:
    """Node -> ms of each run after the warm-up. Nodes may share a name: the third of that name is the third in each run."""
    runs: list[list[tuple[str, str, float]]] = [[]]
    for event in sorted(events, key=lambda each: float(str(each.get("ts", 0)))):
        name, arguments = str(event.get("name", "")), event.get("args")
        if event.get("cat") == "Session" and name == "model_run" and runs[-1]:
            runs.append([])
        if event.get("cat") == "Node" and name.endswith(END) and isinstance(arguments, dict):
            runs[-1].append((name.removesuffix(END), str(arguments.get("op_name", "")), float(str(event["dur"])) / 1e3))
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for run in [each for each in runs if each][WARM_UP:]:
        seen: dict[tuple[str, str], int] = defaultdict(int)
        for name, operator, took in run:
            found[name, operator, seen[name, operator]].append(took)
            seen[name, operator] += 1
    return found


def _islands(graph: onnx.GraphProto, middle: dict[tuple[str, str, int], float], total: float) -> list[Island]:
    """Float nodes that hang together, in a graph that has integers before them and after."""
    seen: dict[tuple[str, str], int] = defaultdict(int)
    took = []
    for node in graph.node:
        took.append(middle.get((node.name, node.op_type, seen[node.name, node.op_type]), 0.0))
        seen[node.name, node.op_type] += 1
    nodes = list(graph.node)
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    integers = _integers(graph)
    floating = [
        node.op_type not in BORDERS and node.op_type not in INTEGER and not integers & {*node.input, *node.output}
        for node in nodes
    ]
    root = list(range(len(nodes)))  # of the group that each node belongs to

    def find(place: int) -> int:
        while root[place] != place:
            place = root[place]
        return place

    borders: dict[int, set[int]] = defaultdict(set)
    inward, outward = set(), set()
    links = [(makers[name], place) for place, node in enumerate(nodes) for name in node.input if name in makers]
    for before, after in links:
        if floating[before] and floating[after]:
            root[find(before)] = find(after)
    for before, after in links:
        if nodes[before].op_type == "DequantizeLinear" and floating[after]:
            inward.add(find(after))
            borders[find(after)].add(before)
        elif floating[before] and nodes[after].op_type == "QuantizeLinear":
            outward.add(find(before))
            borders[find(before)].add(after)
    found = []
    for group in inward & outward:
        inside = [place for place in range(len(nodes)) if floating[place] and find(place) == group]
        own, around = sum(took[place] for place in inside), sum(took[place] for place in borders[group])
        names = [f"{nodes[place].op_type} {nodes[place].name}".strip() for place in inside]
        found.append(Island(nodes=names, time_ms=own, borders_ms=around, share=(own + around) / total))
    return sorted(found, key=lambda each: -each.share)


def _integers(graph: onnx.GraphProto) -> set[str]:
    """Names of values of 8 bits or fewer: what is quantised, and integer weights."""
    small = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
    found = {each.name for each in graph.initializer if each.data_type in small}
    found |= {
        each.name for each in (*graph.value_info, *graph.input, *graph.output) if each.type.tensor_type.elem_type in small
    }
    for node in graph.node:  # the runtime's own operators have no inferred types
        if node.op_type == "QuantizeLinear" or (node.op_type.startswith("QLinear") and node.op_type != "QLinearSoftmax"):
            found.update(node.output)
    return found

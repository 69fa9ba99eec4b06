"""Static quantisation of an ONNX graph: place, recover, measure, round, write."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from compress_cli.errors import StageError
from compress_cli.onnx_graph import files, quantised
from compress_cli.quantization import distributions, joins, layers, placement, ranges
from compress_cli.quantization.calibrations import Calibration
from compress_cli.quantization.grids import Coded
from compress_cli.quantization.histogram import Histogram
from compress_cli.quantization.joins import Starved
from compress_cli.quantization.layers import Layer
from compress_cli.quantization.overrides import Widths
from compress_cli.quantization.pairs import Parameters, Writer
from compress_cli.quantization.placement import Placement
from compress_cli.quantization.ranges import Batch
from compress_cli.quantization.recoveries import Job, Recovery
from compress_cli.quantization.source import failures_of_onnxruntime

KEPT = 64  # calibration samples that the choice of a calibration uses; recoveries may ask for more, all others are seen once


@dataclass(frozen=True)
class Static:
    """What does not depend on the graph."""

    calibrations: Sequence[Calibration]  # of several, the one with the least output error on calibration samples
    widths: Callable[[Layer], Widths]
    code: Callable[[np.ndarray, Layer], Coded]
    recoveries: Sequence[Recovery] = ()
    float_joins: bool = True  # leave those float of which an operand gets too few steps


@dataclass
class Result:
    """A graph in integers, and facts about it."""

    model: onnx.ModelProto
    facts: dict[str, Any] = field(default_factory=dict)


def quantize(simple: onnx.ModelProto, found: list[Layer], static: Static, batches: Iterable[Batch], name: str) -> Result:
    """`simple`, with `found` as its layers, in integers; it is used up. StageError where no layer of it can be, or a
    calibration sample gives NaN."""
    samples, rest = ranges.first(batches, max([KEPT, *(recovery.samples for recovery in static.recoveries)]))
    places = _place(simple, found, static, name)
    done: dict[str, int] = {}
    if static.recoveries:
        job = Job(simple, places.weighted, samples)
        done = {recovery.type: recovery.rescale(job) for recovery in static.recoveries}
        places = _place(simple, found, static, name)
    constants = {tensor.name for tensor in simple.graph.initializer}
    measured = [value for value in places.measured if value not in constants]
    histograms = ranges.measure(simple, measured, itertools.chain(samples, rest), name)
    wild = {value for value, histogram in histograms.items() if ranges.is_wild(histogram)} | _wild(simple, places)
    floating: set[str] = set()
    if wild:
        before = places
        floating = {value for value in before.range_of if before.root(value)[0] in wild}
        places = _place(simple, found, static, name, floating)
        for value in places.measured:  # what was a moved or multiplied value is one of its own now
            if value not in histograms and value not in constants:
                root, factor = before.root(value)
                histograms[value] = histograms[root].times(factor)
    starved: list[Starved] = []
    while static.float_joins and (more := joins.in_file(simple, places, histograms, static.calibrations[0])):
        starved += more  # each time at least one join fewer is left
        places = _place(simple, found, static, name, floating, {operand.join for operand in starved})
        alone = [value for value in places.measured if value not in histograms and value not in constants]
        histograms |= ranges.measure(simple, alone, samples, name) if alone else {}  # parts of what was joined
    arrays = {layer.weight: layers.array(simple, layer.weight) for layer in found}
    coded = {node: static.code(arrays[layer.weight], layer) for node, layer in places.weighted.items()}
    job = Job(simple, places.weighted, samples)
    for recovery in static.recoveries:
        done[recovery.type] += recovery.round(job, coded)
    for recovery in static.recoveries:
        done[recovery.type] += recovery.correct(job, coded)
    _check_done(static.recoveries, done, name)
    stored = {layer.weight: static.code(arrays[layer.weight], layer) for layer in _stored(found, places, static)}
    expected = _outputs(simple, simple, samples[:1], name) if len(static.calibrations) > 1 else []
    least = math.inf
    for calibration in static.calibrations:  # one graph after the other: each holds all weights
        attempt = _written(simple, places, calibration, histograms, coded, stored)
        error = _error(expected, _outputs(simple, attempt[0], samples[:1], name)) if expected else 0.0
        if error < least or least == math.inf:
            least, best, (model, limits, written) = error, calibration, attempt
        del attempt
    facts = []
    for layer in found:
        entry = layers.fact(layer.name, layer.operator, written.get(layer.weight), arrays[layer.weight])
        if layer.node in places.weighted:
            value, factor = places.root(places.inputs[layer.node])
            entry |= ranges.facts(histograms[value], limits[value], factor, places.bits.get(value, 8))
        facts.append(entry)
    drawn = []
    for layer in [next(layer for layer in found if layer.name == name) for name in distributions.worst(facts)]:
        drawn.append(distributions.of_weights(layer.name, arrays[layer.weight], written[layer.weight]))
        if layer.node in places.weighted:
            value, factor = places.root(places.inputs[layer.node])
            bits = places.bits.get(value, 8)
            drawn.append(distributions.of_activations(layer.name, histograms[value], limits[value], bits, factor))
    left = quantised.float_shares(model)
    known = {"layers": facts, "distributions": drawn, "left_float": list(left), "float_share_of_bytes": left, "recovered": done}
    known |= {"float_joins": joins.facts(starved)} if starved else {}
    return Result(model, known | {"calibration": best.type})


def _place(
    simple: onnx.ModelProto, found: list[Layer], static: Static, name: str,
    floating: Collection[str] = (), joins: Collection[str] = (),
) -> Placement:  # fmt: skip
    places = placement.place(simple, found, static.widths, floating, joins)
    if not places.weighted:
        raise StageError(f"{name}: nothing was quantised: no layer of it has an integer kernel, or all are to stay float")
    return places


def _wild(simple: onnx.ModelProto, places: Placement) -> set[str]:
    """Constants that are operands of kernels, and are infinite or far off."""
    operands = {tensor.name for tensor in simple.graph.initializer} & {*places.measured}
    return {name for name in operands if ranges.is_wild(ranges.counted(layers.array(simple, name)))}


def _check_done(recoveries: Sequence[Recovery], done: dict[str, int], name: str) -> None:
    for recovery in recoveries:
        if not done[recovery.type]:
            found = f"{name}: the recovery '{recovery.type}' finds nothing in this model that it could change"
            raise StageError(f"{found}; {recovery.remedy}")


def _stored(found: list[Layer], places: Placement, static: Static) -> list[Layer]:
    """Layers of which only the weights become integers, by an override."""
    integers = {layer.weight for layer in places.weighted.values()}
    widths = {layer.weight: static.widths(layer) for layer in found if layer.weight not in integers}
    return [
        layer for layer in found
        if layer.weight in widths and widths[layer.weight].weights is not None and widths[layer.weight].activations is None
    ]  # fmt: skip


def _written(
    simple: onnx.ModelProto, places: Placement, calibration: Calibration, histograms: dict[str, Histogram],
    coded: dict[str, Coded], stored: dict[str, Coded],
) -> tuple[onnx.ModelProto, dict[str, tuple[float, float]], dict[str, Coded]]:  # fmt: skip
    """The graph in integers with one calibration's ranges, these ranges, and the codes of each weight."""
    model = files.without(simple, _as_codes_alone(simple, places))
    constants = {tensor.name: tensor for tensor in simple.graph.initializer}
    limits = ranges.ranges(histograms, calibration, places.bits)
    limits |= {value: ranges.of_constant(layers.array(simple, value)) for value in places.measured if value in constants}
    shares = [node.output[0] for node in places.nodes.values() if node.op_type == "Softmax"]
    limits |= {value: (0.0, 1.0) for value in shares if value in limits}  # its kernel does not cut off: beyond, it begins at 0
    parameters = {value: Parameters.of(*limits[value], places.bits.get(value, 8)) for value in limits}
    nodes = {node.name: node for node in model.graph.node}
    own = copy.copy(places)
    own.nodes = {name: nodes[name] for name in places.nodes}
    writer = Writer(model, own, parameters, constants)
    writer.write(coded, stored)
    return model, limits, writer.coded


def _as_codes_alone(simple: onnx.ModelProto, places: Placement) -> set[str]:
    """Weights that only layers in integers read."""
    reads = Counter(name for node in simple.graph.node for name in layers.read(node))
    reads.update(output.name for output in simple.graph.output)
    coded = Counter(layer.weight for layer in places.weighted.values())
    return {weight for weight, count in coded.items() if reads[weight] == count}


def _outputs(simple: onnx.ModelProto, model: onnx.ModelProto, samples: list[Batch], name: str) -> list[np.ndarray]:
    """What a model gives for the outputs of `simple`, batch by batch."""
    names = [output.name for output in simple.graph.output]
    with failures_of_onnxruntime(name):
        session = ranges.session(model)
        return [array for batch in samples for array in session.run(names, batch) if isinstance(array, np.ndarray)]


def _error(expected: list[np.ndarray], outputs: list[np.ndarray]) -> float:
    """The squared error of outputs as a share of those expected, summed over them."""
    return sum(
        float(np.square(one.astype(np.float64) - other).sum() / max(np.square(one, dtype=np.float64).sum(), 1e-30))
        for one, other in zip(expected, outputs, strict=True)
        if one.dtype.kind == "f" and one.shape == other.shape
    )

"""Promises held against each other and against what can be measured, before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from compress_cli.data.datasets import Dataset
from compress_cli.data.tasks import Task
from compress_cli.errors import RecipeError
from compress_cli.report.document import Report
from compress_cli.statistics.gate import SORTS, Gate, changed, impossible, sort_of
from compress_cli.statistics.scores import Better

INVERSE = {"compression_ratio": "size_ratio", "speedup": "latency_ratio"}
RELATIVE = {"size_ratio": "size_bytes", "latency_ratio": "latency_ms", "parameters_ratio": "parameters", "macs_ratio": "macs"}
PREDICTIONS = ("agreement", "churn", "right_to_wrong", "wrong_to_right", "worst_class_drop", "ece", "kl")
FEWEST_BYTES = 300
"""Of an ONNX file with one small layer; fewer can't be promised."""


@dataclass(frozen=True)
class Bound:
    """What a promise says of one quantity, in the unit of `axis`."""

    axis: str
    low: float
    high: float
    gate: Gate


@dataclass(frozen=True)
class Budget:
    """What the promises leave for a model, next to the given one."""

    bytes_share: float  # of the given model's bytes, at most
    latency_share: float  # of its latency, at most
    drop: float | None  # of the primary metric, at most; None where nothing is promised about it


def check(goals: Sequence[Gate], dataset: Dataset, task: Task) -> None:
    """RecipeError, with all complaints at once, for promises that can't be judged on this data or contradict each other."""
    metrics = list(dict.fromkeys((task.primary, *task.metrics)))
    complaints = []
    labelled = bool(dataset.split("val").targets)
    for gate in goals:
        reason = impossible(gate, ["given", "shipped"], "given", task.primary, metrics)
        quantity = gate.terms.quantity
        about_labels = changed(quantity)[0] in metrics or quantity in PREDICTIONS
        if not reason and about_labels and not labelled:
            reason = _unlabelled(quantity)
        if reason:
            complaints.append(f"--goal '{gate.promise}': {reason}")
    complaints += contradictions(bounds(goals, task.metrics))
    if complaints:
        raise RecipeError("\n".join(complaints))


def _unlabelled(quantity: str) -> str:
    return (
        f"the data has no labels on val, so no {quantity} can be measured; what can be judged without true labels is how often "
        "answers stay those of the given model: store its answers in the data as labels, and promise 'agreement>=0.995'"
    )


def bounds(goals: Sequence[Gate], metrics: Mapping[str, Better], given: Report | None = None) -> list[Bound]:
    """Each promise as an interval of a quantity; relative ones in the unit of the absolute ones once the given model's figures
    are known (`given`)."""
    figures = _figures(given) if given else {}
    return [_bound(gate, metrics, figures) for gate in goals]


def _bound(gate: Gate, metrics: Mapping[str, Better], figures: Mapping[str, float]) -> Bound:
    terms = gate.terms
    low, high, axis = (-math.inf, terms.limit, terms.quantity) if terms.at_most else (terms.limit, math.inf, terms.quantity)
    if axis in INVERSE:
        axis, low, high = INVERSE[axis], _inverse(high), _inverse(low)
    if axis in RELATIVE and RELATIVE[axis] in figures:
        axis = RELATIVE[axis]
        low, high = low * figures[axis], high * figures[axis]
    if axis == "churn":
        axis, low, high = "agreement", 1 - high, 1 - low
    metric, kind = changed(axis)
    if kind and metric in metrics:
        sign = 1 if kind == "_change" else -1 if metrics[metric] == "higher" else 1
        low, high = (low, high) if sign > 0 else (-high, -low)
        axis = f"{metric}_change"
        if metric in figures:
            axis, low, high = metric, figures[metric] + low, figures[metric] + high
    return Bound(axis, low, high, gate)


def _inverse(value: float) -> float:
    return math.inf if value <= 0 else 0.0 if math.isinf(value) else 1 / value


def _figures(given: Report) -> dict[str, float]:
    """What is known of the given model, by quantity."""
    (row,) = given.rows[:1]
    known = {
        "size_bytes": row.size_bytes,
        "parameters": row.parameters,
        "macs": row.macs,
        "latency_ms": row.latency.p50_ms.value if row.latency else None,
        **{name: estimate.value for name, estimate in row.metrics.items()},
    }
    return {name: float(value) for name, value in known.items() if value}


def contradictions(found: Sequence[Bound]) -> list[str]:
    """What no model could keep, in sentences."""
    lines = []
    for bound in found:
        share = bound.axis == "agreement" or (
            bound.axis not in SORTS and sort_of(bound.axis) == "share" and "_" not in bound.axis
        )
        if share and bound.low > 1:
            lines.append(f"--goal '{bound.gate.promise}': {bound.axis} would have to be {bound.low:.4g}, and is at most 1")
        if bound.axis == "size_bytes" and bound.high < FEWEST_BYTES:
            lines.append(
                f"--goal '{bound.gate.promise}': the file would have at most {bound.high:.0f} bytes; no ONNX file with a layer "
                f"in it has fewer than {FEWEST_BYTES}"
            )
        if bound.axis in ("size_ratio", "latency_ratio", "size_bytes", "latency_ms") and bound.high <= 0:
            lines.append(f"--goal '{bound.gate.promise}': nothing takes no bytes and no time")
    return [*lines, *(_contradiction(*pair) for pair in combinations(found, 2) if _excluded(*pair))]


def _excluded(one: Bound, other: Bound) -> bool:
    return one.axis == other.axis and max(one.low, other.low) > min(one.high, other.high)


def _contradiction(one: Bound, other: Bound) -> str:
    return (
        f"--goal '{one.gate.promise}' and --goal '{other.gate.promise}' contradict each other: no model keeps both; leave one "
        "of them out"
    )


def budget(goals: Sequence[Gate], task: Task, given: Report) -> Budget:
    """What the promises leave, by the given model's figures; RecipeError where they contradict each other by these."""
    found = bounds(goals, task.metrics, given)
    lines = contradictions(found)
    if lines:
        raise RecipeError("\n".join(lines))
    known = _figures(given)

    def share(axis: str) -> float:
        highs = [bound.high / known[axis] for bound in found if bound.axis == axis and axis in known]
        return min([1.0, *highs])

    counted = min(share("parameters"), 1.0)
    floors = [bound for bound in found if bound.axis == task.primary]
    value, sign = known.get(task.primary, 0.0), 1 if task.better == "higher" else -1
    drops = [sign * (value - (bound.low if sign > 0 else bound.high)) for bound in floors]
    finite = [drop for drop in drops if math.isfinite(drop)]
    return Budget(min(share("size_bytes"), counted), min(share("latency_ms"), share("macs")), min(finite) if finite else None)


def changed_metric(promise: str) -> str:
    """The metric that a promise is about, or whose change it is; any other quantity as it is."""
    return changed(Gate(promise=promise).terms.quantity)[0]

"""The gates of a run, judged on its report."""

from __future__ import annotations

from pathlib import Path

from compress_cli import report
from compress_cli.errors import GateError, RecipeError
from compress_cli.report import Report, Row
from compress_cli.report import figures as write
from compress_cli.settings import suggest
from compress_cli.statistics import gate
from compress_cli.statistics.gate import Gate, Judged
from compress_cli.statistics.intervals import Estimate
from compress_cli.store.record import Record

PREDICTION_QUANTITIES = ("agreement", "churn", "right_to_wrong", "wrong_to_right", "worst_class_drop", "ece", "kl")


def collect(directory: Path, more: tuple[Gate, ...] = ()) -> Report:
    """The report of the run in `directory` with its gates, and `more` of the command line, judged.

    RecipeError for one of `more` that asks what the run does not hold; what the run's own gates lack is said by `decide`.
    """
    made = report.collect(directory)
    rows = [row.name for row in made.rows]
    metrics = list(dict.fromkeys(name for row in made.rows for name in row.metrics))
    tables = [found.name for found in made.findings]
    wrong = [(each, gate.impossible(each, rows, made.baseline, made.primary, metrics, tables)) for each in more]
    complaints = [f"--gate '{each.promise}': {reason}" for each, reason in wrong if reason]
    if complaints:
        raise RecipeError("\n".join(complaints))
    gates = dict.fromkeys((*Record.read(directory).gates, *more))
    return made.model_copy(update={"gates": judge(made, tuple(gates))})


def judge(made: Report, gates: tuple[Gate, ...]) -> list[Judged]:
    """A pure function of the report."""
    last = made.rows[-1].name if made.rows else ""
    judged = []
    for each in gates:
        name = each.terms.row or last
        row = next((row for row in made.rows if row.name == name), None)
        table = next((found.findings.figures() for found in made.findings if found.name == name), None)
        if row is None and table is not None:
            quantity = each.terms.quantity
            judged.append(
                gate.judge(each, name, table.get(quantity), f"it has no such figure; {suggest(quantity, list(table))}")
            )
        else:
            judged.append(gate.judge(each, name, _figure(each.terms.quantity, row, made) if row else None, _why_not(each, row)))
    return judged


def decide(made: Report) -> None:
    """RecipeError for a gate on something that was not measured, GateError for one that does not pass."""
    lines = [f"gate {write.gate(each)}" for each in made.gates if not each.passes]
    if any(each.outcome == "not measured" for each in made.gates):
        raise RecipeError("\n".join(lines))
    if lines:
        raise GateError("\n".join(lines))


def _figure(quantity: str, row: Row, made: Report) -> Estimate | float | None:
    """With its interval where it has one; None where it was not measured."""
    if quantity in row.metrics:
        return row.metrics[quantity]
    if quantity == f"{made.primary}_change":
        return row.change
    if quantity == f"{made.primary}_drop":
        return _negative(row.change)
    latency = row.latency
    known: dict[str, Estimate | float | None] = {
        "size_bytes": row.size_bytes,
        "parameters": row.parameters,
        "macs": row.macs,
        "latency_ms": latency.p50_ms if latency else None,
        "latency_p90_ms": latency.p90_ms if latency else None,
        "latency_p99_ms": latency.p99_ms if latency else None,
        "throughput_per_s": latency.throughput_per_s if latency else None,
        "speedup": row.speedup,
        "latency_ratio": _inverse(row.speedup),
        "compression_ratio": row.compression_ratio,
    }
    if quantity in known:
        return known[quantity]
    if quantity in PREDICTION_QUANTITIES:
        return _predictions(quantity, row, made)
    counted = {"size_ratio": "size_bytes", "parameters_ratio": "parameters", "macs_ratio": "macs"}
    baseline = next((each for each in made.rows if each.name == made.baseline), None)
    if baseline is None or quantity not in counted:
        return None
    ours, theirs = (getattr(each, counted[quantity]) for each in (row, baseline))
    return ours / theirs if ours is not None and theirs else None


def _predictions(quantity: str, row: Row, made: Report) -> Estimate | None:
    """The baseline is not compared with itself, but it is as badly calibrated as every other row says."""
    if quantity == "ece" and row.name == made.baseline:
        return next((each.predictions.ece_baseline for each in made.rows if each.predictions), None)
    found: Estimate | None = getattr(row.predictions, quantity) if row.predictions else None
    return found


def _why_not(each: Gate, row: Row | None) -> str:
    if row is None:
        return "this run holds no such model"
    if row.reason:
        return row.reason
    if each.terms.quantity in PREDICTION_QUANTITIES and row.predictions is None:
        return "the task names no classes, or the model was not measured on the baseline's samples"
    return row.macs_unknown if each.terms.quantity.startswith("macs") else "this run has no such figure of it"


def _negative(change: Estimate | None) -> Estimate | None:
    if change is None:
        return None
    value, low, high = (0.0 - each for each in (change.value, change.high, change.low))  # no minus zero
    return Estimate(value=value, low=low, high=high, samples=change.samples)


def _inverse(ratio: Estimate | None) -> Estimate | None:
    return ratio and Estimate(value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low, samples=ratio.samples)

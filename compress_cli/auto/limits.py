"""Why a promise does not hold: the student, the integers, the runtime, the time, or the test split."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress_cli.auto import promises
from compress_cli.auto.decision import Decision
from compress_cli.auto.request import Request, duration
from compress_cli.auto.writing import number
from compress_cli.report import Report, Row
from compress_cli.report.document import chain
from compress_cli.statistics.gate import Gate, GateResult, changed
from compress_cli.store import durable
from compress_cli.store.record import LIMITS, Record

NOTICED = 1.1  # times as fast: what another file of the run has to be to be named
RISING = 0.002  # of the metric on val, won in the last quarter of a training: it had not come to its end


def sentences(request: Request, decision: Decision, report: Report, facts: Mapping[str, Any] | None) -> list[str]:
    """One for each promise that does not hold, and one about the time where it has a part in it.

    facts: of the training stage; None where nothing was trained.
    """
    open_promises = [result for result in report.gates if result.outcome != "met"]
    lines = [line for result in open_promises for line in _why(request, decision, report, result)]
    metrics = {request.task.primary, *request.task.metrics}
    about_metric = any(promises.changed_metric(result.promise) in metrics for result in open_promises)
    if facts and about_metric and (line := _time(request, facts)):
        lines.append(line)
    return lines


def late(request: Request, took_s: float, trained: bool) -> str:
    """What to say where all of it, over all calls, took longer than it was given; empty where it did not."""
    if took_s <= request.within_s:
        return ""
    why = (
        "this machine was slower than when its pace was measured"
        if trained
        else "nothing was trained, so this is what it takes to measure the formats and the result"
    )
    return f"all of it took {duration(took_s)}, longer than within {duration(request.within_s)}: {why}"


def write(directory: Path, lines: list[str]) -> None:
    """Leave them in the run's folder for its report, bound to the artifacts that they are about."""
    document = {"steps": Record.read(directory).steps, "limits": lines}
    durable.write(directory / LIMITS, (json.dumps(document, indent=1) + "\n").encode())


def _why(request: Request, decision: Decision, report: Report, result: GateResult) -> Iterator[str]:
    quantity = Gate(promise=result.promise).terms.quantity
    if result.outcome == "not measured":
        yield f"{result.promise}: was not measured: {result.reason}"
    elif result.outcome == "undecided" and _keeps(result):
        more = f"; about {result.needs:,} more would decide it" if result.needs else ""
        what = "rounds of timing" if quantity.startswith(("speedup", "latency")) else f"{report.samples} {report.split} samples"
        yield f"{result.promise}: the value keeps it, and what limits the verdict is the number of {what}{more}"
    elif quantity.startswith(("speedup", "latency")):
        yield _speed(request, decision, report, result)
    elif quantity in ("compression_ratio", "size_ratio", "size_bytes", "parameters", "parameters_ratio"):
        yield f"{result.promise}: {_bytes(decision)}"
    elif changed(quantity)[0] in {report.primary, *report.directions}:
        yield _metric(report, result)
    else:
        yield f"{result.promise}: what limits it was not looked for"


def _keeps(result: GateResult) -> bool:
    """Whether the value keeps the promise, were there no noise."""
    terms = Gate(promise=result.promise).terms
    return result.value is not None and (result.value <= terms.limit if terms.at_most else result.value >= terms.limit)


def _speed(request: Request, decision: Decision, report: Report, result: GateResult) -> str:
    """The runtime, where the smallest file that was timed is too slow; else the size that the goals leave."""
    asked = 1 / decision.budget.latency_share
    shipped = next((one.speedup.value for one in report.rows if one.name == result.row and one.speedup), 0.0)
    faster = [one for one in report.rows if one.speedup and one.speedup.value > NOTICED * shipped]
    if faster:
        times, name = max((one.speedup.value, one.name) for one in faster if one.speedup)
        return (
            f"{result.promise}: the integers limit it: the file before them ({name}) is {times:.2f} times as fast as the given "
            f"one, and what ships {shipped:.2f} times: so small a model gains nothing from integer kernels here; leave the "
            "quantize stage out where its bytes are few enough"
        )
    if decision.why_nothing and not decision.sizes:
        return f"{result.promise}: number formats alone do not reach it, and {decision.why_nothing}"
    if decision.fastest < asked:
        return (
            f"{result.promise}: the runtime on this machine limits it: of all files that were timed the fastest is "
            f"{decision.fastest:.2f} times as fast as the given model, and {asked:.2f} times are asked"
        )
    return (
        f"{result.promise}: a file as fast was found ({decision.fastest:.2f} times as fast as the given model, where "
        f"{asked:.2f} times are asked); what was taken is larger, or this machine was busier than when it was timed"
    )


def _bytes(decision: Decision) -> str:
    if decision.why_nothing:
        return f"number formats alone do not reach it, and {decision.why_nothing}"
    allowed = decision.budget.bytes_share * decision.given.bytes
    fewest = min((file.size_bytes for one in decision.sizes for file in one.rehearsal.files.values()), default=0)
    if fewest > allowed:
        return (
            f"of all files that were tried the smallest has {fewest:,} bytes, and {allowed:,.0f} are allowed: the graph and "
            "the scales of integers take room that no width saves"
        )
    return f"a smaller file was tried ({fewest:,} bytes), and another size was taken for its accuracy or speed"


def _metric(report: Report, result: GateResult) -> str:
    """The stage that loses most of the metric."""
    name, rows = report.primary, chain(report)
    steps: list[tuple[float, Row]] = []
    for row in rows[1:]:
        if row.gained is not None:
            lost = -row.gained.value if report.better == "higher" else row.gained.value
            steps.append((lost, row))
    if not steps or changed(Gate(promise=result.promise).terms.quantity)[0] != name:
        return f"{result.promise}: what limits it was not looked for"
    worst, row = max(steps, key=lambda step: step[0])
    listed = f"lost on test, stage by stage: {', '.join(f'{one.title} {number(name, lost)}' for lost, one in steps)}"
    given, terms = rows[0].metrics.get(name), Gate(promise=result.promise).terms
    short = given and terms.quantity == name and (given.value > terms.limit if terms.at_most else given.value < terms.limit)
    if given and (short or worst <= 0):
        return f"{result.promise}: the given model limits it, whose own {name} is {number(name, given.value)} ({listed})"
    what = "the integers limit" if row.stage.startswith("quantize") else f"the {row.title} model's {name} limits"
    return f"{result.promise}: {what} it ({listed})"


def _time(request: Request, facts: Mapping[str, Any]) -> str:
    """Whether the training was still gaining when its time was up."""
    primary, sign = request.task.primary, 1 if request.task.better == "higher" else -1
    values = [sign * epoch[primary] for epoch in facts["epochs"] if primary in epoch]
    count = len(values)
    last = max(1, count // 4)
    if count >= 2 and max(values[-last:]) - max(values[:-last]) > RISING:
        gained = number(primary, max(values[-last:]) - max(values[:-last]))
        return (
            f"the time limits it too: {count} epochs fitted into {duration(request.within_s)}, and {primary} on val still rose "
            f"by {gained} in the last {last}"
        )
    return ""

"""What `compress eval` says of one file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from compress_cli.contents import Contents
from compress_cli.intervals import Estimate
from compress_cli.latency import Latency, Speedup
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING


class Against(BaseModel):
    """The file beside an older one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline: str
    contents: Contents
    metrics: dict[str, Estimate]
    """On the same samples; empty without data."""
    compression_ratio: float
    """Bytes of the baseline / bytes of the file."""
    speedup: Speedup
    change: Estimate | None
    """Of the primary metric on the same samples; None without data."""
    change_p: float | None
    """McNemar's p-value; None for a metric that is not right-or-wrong."""


class Evaluation(BaseModel):
    """One file: what it holds, how well it does, how long it takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    contents: Contents
    machine: dict[str, str | int]
    latency: Latency
    data: str
    """Name of the dataset; empty where there was none, and so no metrics."""
    split: str
    samples: int
    primary: str
    metrics: dict[str, Estimate]
    against: Against | None


def show(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print it, one line a figure. Default: standard output."""
    out = console or Console(highlight=False, markup=False, soft_wrap=True)
    contents, latency = evaluation.contents, evaluation.latency
    stored = ", ".join(f"{write.count(each)} {kind}" for kind, each in contents.kinds.items())
    lines = {
        "parameters": f"{write.count(contents.parameters)} ({stored})" if stored else "none",
        "MACs": write.count(contents.macs) if contents.macs is not None else f"unknown: {contents.macs_unknown}",
        "file": write.size(contents.size_bytes),
    }
    for name, estimate in evaluation.metrics.items():
        where = (
            f"  ({evaluation.samples} {evaluation.split} samples of {evaluation.data})" if name == evaluation.primary else ""
        )
        lines[write.title(name)] = f"{write.metric(name, estimate.value)} {write.interval(name, estimate)}{where}"
    threads = f"{latency.threads} thread{'s' if latency.threads > 1 else ''}"
    lines["latency"] = (
        f"{write.milliseconds(latency.p50_ms.value)}, 90% below {write.milliseconds(latency.p90_ms)}, "
        f"99% below {write.milliseconds(latency.p99_ms)}  (batch {latency.batch}, {threads}, "
        f"{evaluation.machine['processor']}, ONNX Runtime {evaluation.machine['onnxruntime']})"
    )
    lines["throughput"] = f"{write.count(round(latency.throughput_per_s))} samples/s"
    if evaluation.against:
        lines |= _against(evaluation.against, evaluation.primary)
    if not evaluation.metrics:
        lines["accuracy"] = "not measured: the file does not say what data it is for; name it with --data"
    out.print(write.printable(evaluation.model))
    width = max(map(len, lines))
    for name, line in lines.items():
        out.print(f"  {name:{width}}  {write.printable(line)}")


def compare(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print the two files side by side, the older first, and what changed. Default: standard output."""
    out, against, primary = console or Console(highlight=False, markup=False), evaluation.against, evaluation.primary
    assert against is not None
    out.width = max(out.width, 100)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, overflow="fold")
    both = (against.contents, evaluation.contents)
    table.add_row("parameters", *(write.count(each.parameters) for each in both))
    table.add_row("numbers", *(", ".join(each.kinds) or NOTHING for each in both))
    table.add_row("MACs", *(write.count(each.macs) for each in both))
    table.add_row("file", *(write.size(each.size_bytes) for each in both), f"{write.times(against.compression_ratio)} smaller")
    for name, estimate in evaluation.metrics.items():
        told = [f"{write.metric(name, each.value)} {write.interval(name, each)}" for each in (against.metrics[name], estimate)]
        table.add_row(write.title(name), *told, *([_changed(against, primary)] if name == primary else []))
    speedup, timed = against.speedup.speedup, (against.speedup.baseline, against.speedup.model)
    said = f"{write.times(speedup.value)} faster [{speedup.low:.2f}, {speedup.high:.2f}]: {against.speedup.verdict}"
    table.add_row("latency", *(write.milliseconds(each.p50_ms.value) for each in timed), said)
    out.print(f"before: {write.printable(against.baseline)}", soft_wrap=True)
    out.print(f"after:  {write.printable(evaluation.model)}\n", soft_wrap=True)
    out.print(table)
    data = f"{evaluation.samples} {evaluation.split} samples of {evaluation.data}; " if evaluation.data else "no data named: "
    threads = f"{timed[0].threads} thread{'s' if timed[0].threads > 1 else ''}"
    out.print(
        f"{data}latency of a batch of {timed[0].batch} with {threads}, timed in turn, on {evaluation.machine['processor']}, "
        f"ONNX Runtime {evaluation.machine['onnxruntime']}",
        style="dim",
    )


def _changed(against: Against, primary: str) -> str:
    if against.change is None:
        return ""
    low, high = against.change.low, against.change.high
    sure = "no certain change" if low <= 0 <= high else "higher" if low > 0 else "lower"
    return f"{write.metric(primary, against.change.value, True)} {write.interval(primary, against.change, True)}: {sure}"


def _against(against: Against, primary: str) -> dict[str, str]:
    speedup = against.speedup.speedup
    interval = f"[{speedup.low:.2f}, {speedup.high:.2f}]"
    lines = {
        "baseline": against.baseline,
        "smaller": write.times(against.compression_ratio),
        "faster": f"{write.times(speedup.value)} {interval} at 99%: {against.speedup.verdict}",
    }
    if against.change:
        change, p = against.change, against.change_p
        chance = f"  (McNemar p = {p:.2g})" if p is not None else ""
        value = write.metric(primary, change.value, True)
        lines["change"] = f"{value} {write.interval(primary, change, True)} of {write.title(primary)}{chance}"
    return lines

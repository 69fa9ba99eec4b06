"""What `compress eval` and `compress compare` print."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Grid

from compress_cli.measurement.clients import Load
from compress_cli.measurement.evaluation import Against, Evaluation
from compress_cli.measurement.latency import Latency
from compress_cli.measurement.profile import Profile
from compress_cli.measurement.sessions import Options
from compress_cli.onnx_graph.contents import Contents
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING
from compress_cli.report.table import Cell, Table
from compress_cli.statistics.intervals import Estimate

NOTED = 0.05  # share of interrupted runs above which a report says so


def show(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print one line for each figure. Default: standard output."""
    out = console or Console(highlight=False, markup=False, soft_wrap=True)
    contents, latency = evaluation.contents, evaluation.latency
    stored = ", ".join(f"{write.count(count)} {kind}" for kind, count in contents.kinds.items())
    lines = {
        "parameters": f"{write.count(contents.parameters)} ({stored}){_zeros(contents)}" if stored else "none",
        "MACs": write.count(contents.macs) if contents.macs is not None else f"unknown: {contents.macs_unknown}",
        "file": f"{write.size(contents.size_bytes)} ({write.compressed(contents)})",
        "activations": write.activations(contents),
    }
    for name, estimate in evaluation.metrics.items():
        where = (
            f"  ({evaluation.samples} {evaluation.split} samples of {evaluation.data})" if name == evaluation.primary else ""
        )
        lines[write.title(name)] = f"{write.metric(name, estimate.value)} {write.interval(name, estimate)}{where}"
    threads = f"{latency.threads} thread{'s' if latency.threads > 1 else ''}"
    lines["latency"] = (
        f"{write.milliseconds(latency.p50_ms.value)}, 90% below {write.milliseconds(latency.p90_ms)}, "
        f"99% below {write.milliseconds(latency.p99_ms)}  ({_batch(latency)}, {threads}, {latency.caches} caches, "
        f"{evaluation.machine['processor']}, ONNX Runtime {evaluation.machine['onnxruntime']}{_options(evaluation.session)})"
    )
    lines["throughput"] = _throughput(latency)
    if latency.interrupted > NOTED:
        lines["interrupted"] = (
            f"{100 * latency.interrupted:.0f}% of the runs, by other processes: the median latency leaves them out, the "
            "percentiles and the throughput include them"
        )
    if evaluation.load:
        lines["under load"] = _under_load(evaluation.load)
    if evaluation.against:
        lines |= _against(evaluation.against, evaluation)
    if not evaluation.metrics:
        lines["accuracy"] = "not measured: the file does not say what data it is for; name it with --data"
    out.print(write.printable(evaluation.model))
    width = max(map(len, lines))
    for name, line in lines.items():
        out.print(f"  {name:{width}}  {write.printable(line)}")
    for warning in evaluation.warnings:
        out.print(f"warning: {write.printable(warning)}")
    if evaluation.profile:
        _profile(evaluation.profile, out)


def compare(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print the two files side by side, the older first, and what changed. Default: standard output."""
    out, against = console or Console(highlight=False, markup=False), evaluation.against
    assert against is not None
    out.width = max(out.width, 100)
    table = Grid(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "before", "after", "change"):
        table.add_column(heading, overflow="fold")
    both = (against.contents, evaluation.contents)
    smaller = f"{write.times(against.compression_ratio)} smaller"
    table.add_row("parameters", *(write.count(file.parameters) for file in both))
    table.add_row("number type", *(", ".join(file.kinds) or NOTHING for file in both))
    table.add_row("MACs", *(write.count(file.macs) for file in both))
    table.add_row("file", *(write.size(file.size_bytes) for file in both), smaller)
    for name in dict.fromkeys((*evaluation.metrics, *against.metrics)):
        figures = [" ".join(write.cell(name, metrics.get(name))) for metrics in (against.metrics, evaluation.metrics)]
        table.add_row(write.title(name), *figures, _changed(name, evaluation))
    speedup, timed = against.speedup.speedup, (against.speedup.baseline, against.speedup.model)
    faster = f"{write.times(speedup.value)} faster [{speedup.low:.2f}, {speedup.high:.2f}]: {against.speedup.verdict}"
    table.add_row("latency", *(write.milliseconds(latency.p50_ms.value) for latency in timed), faster)
    out.print(f"before: {write.printable(against.baseline)}", soft_wrap=True)
    out.print(f"after:  {write.printable(evaluation.model)}\n", soft_wrap=True)
    out.print(table)
    data = f"{evaluation.samples} {evaluation.split} samples of {evaluation.data}; " if evaluation.data else "no data named: "
    threads = f"{timed[0].threads} thread{'s' if timed[0].threads > 1 else ''}"
    out.print(
        f"{data}latency ({_batch(timed[0])}) with {threads} and {timed[0].caches} caches, timed in turn, on "
        f"{evaluation.machine['processor']}, ONNX Runtime {evaluation.machine['onnxruntime']}",
        style="dim",
    )
    for warning in evaluation.warnings:
        out.print(f"warning: {write.printable(warning)}", soft_wrap=True)


def table(evaluation: Evaluation) -> Table:
    """The file's figures in one row, the baseline's before it."""
    both = [(evaluation.model, evaluation.contents, evaluation.metrics, evaluation.latency)]
    if evaluation.against:
        older = evaluation.against
        both.insert(0, (older.baseline, older.contents, older.metrics, older.speedup.baseline))
    headings = ["model", "parameters", "nonzero", "macs", "size_bytes", "gzip_bytes", *evaluation.metrics]
    headings += ["latency_ms", "latency_p90_ms", "latency_p99_ms", "throughput_per_s"]
    rows: list[list[Cell]] = []
    for model, file, metrics, timed in both:
        row: list[Cell] = [model, file.parameters, file.nonzero, file.macs, file.size_bytes, file.gzip_bytes]
        row += [metrics[name].value if name in metrics else None for name in evaluation.metrics]
        rows.append([*row, timed.p50_ms.value, timed.p90_ms, timed.p99_ms, timed.throughput_per_s])
    return Table(headings, rows)


def _zeros(contents: Contents) -> str:
    if contents.nonzero is None or contents.nonzero == contents.parameters:
        return ""
    return f", {100 * (1 - contents.nonzero / contents.parameters):.1f}% of them 0"


def _options(session: Options) -> str:
    """Options that differ from the defaults."""
    plain = Options()
    changed = {name: value for name, value in session.model_dump().items() if value != getattr(plain, name)}
    providers = [provider.removesuffix("ExecutionProvider").lower() for provider in changed.pop("providers", [])]
    return "".join(f", {option}" for option in (*providers, *(f"{name} {value}" for name, value in changed.items())))


def _batch(latency: Latency) -> str:
    return "the number of samples in a run is not known" if latency.batch is None else f"batch {latency.batch}"


def _throughput(latency: Latency) -> str:
    if latency.throughput_per_s is None:
        return f"{write.count(round(latency.runs_per_s or 0))} runs/s"
    return f"{write.count(round(latency.throughput_per_s))} samples/s"


def _under_load(load: Load) -> str:
    rate = load.throughput_per_s
    samples = "an unknown number of" if rate is None else write.count(round(rate.value))
    interval = "" if rate is None else f" [{write.count(round(rate.low))}, {write.count(round(rate.high))}]"
    return (
        f"{samples} samples/s{interval} from "
        f"{load.clients} clients at once; {write.milliseconds(load.p50_ms)}, 90% below {write.milliseconds(load.p90_ms)}, "
        f"99% below {write.milliseconds(load.p99_ms)}"
    )


def _profile(profile: Profile, out: Console) -> None:
    """The costliest nodes, and what runs in float between integers."""
    out.print(f"\ncostliest nodes (of {write.milliseconds(profile.total_ms)} in all; timing them takes time too)")
    for node in profile.nodes[:10]:
        name = write.printable(f"{node.operator} {node.name}")
        out.print(f"  {100 * node.share:5.1f}%  {write.milliseconds(node.time_ms):>9}  {name}")
    for island in profile.islands:
        nodes = write.printable(", ".join(island.nodes[:5]) + (", ..." if len(island.nodes) > 5 else ""))
        spent = f"{write.milliseconds(island.time_ms)} and {write.milliseconds(island.borders_ms)} for the conversions around"
        out.print(f"float island, {100 * island.share:.1f}%: {nodes} ({spent})")


def _changed(name: str, evaluation: Evaluation) -> str:
    """Of a metric, signed, and whether it is certain."""
    change = _change(name, evaluation)
    if change is None:
        return ""
    if change.low <= 0 <= change.high:
        certain = "no certain change"
    else:
        certain = "better" if (change.low > 0) == (evaluation.better[name] == "higher") else "worse"
    return f"{' '.join(write.cell(name, change, signed=True))}: {certain}"


def _change(name: str, evaluation: Evaluation) -> Estimate | None:
    against = evaluation.against
    assert against is not None
    return against.change if name == evaluation.primary else against.secondary_changes.get(name)


def _against(against: Against, evaluation: Evaluation) -> dict[str, str]:
    speedup, primary = against.speedup.speedup, evaluation.primary
    interval = f"[{speedup.low:.2f}, {speedup.high:.2f}]"
    lines = {
        "baseline": against.baseline,
        "smaller": write.times(against.compression_ratio),
        "faster": f"{write.times(speedup.value)} {interval} at 99%: {against.speedup.verdict}, from "
        f"{write.milliseconds(against.speedup.baseline.p50_ms.value)}",
    }
    if against.change:
        chance = f"  (McNemar p = {against.change_p:.2g})" if against.change_p is not None else ""
        lines["change"] = f"{' '.join(write.cell(primary, against.change, signed=True))} of {write.title(primary)}{chance}"
    for name, change in against.secondary_changes.items():
        lines[f"change of {write.title(name)}"] = " ".join(write.cell(name, change, signed=True))
    return lines

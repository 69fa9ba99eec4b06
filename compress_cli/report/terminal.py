"""The report as a table on a terminal of 100 columns."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress_cli.report import FindingsTable, Report, Row, distillation
from compress_cli.report import figures as write

WIDTH = 100
UNBOUNDED = 10_000  # columns, for a table that is measured


def show(report: Report, console: Console | None = None) -> None:
    """Print the tables, what they were measured on, and remarks. Default: standard output."""
    out = console or Console(highlight=False, markup=False)
    out.width = max(out.width, WIDTH)  # a narrower window wraps lines instead of cutting figures
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    longest = max((len(row.title) for row in report.files), default=5)
    table.add_column("model", overflow="fold", min_width=min(16, longest), max_width=16)
    metric = write.title(report.primary) or "metric"
    for heading in ("params", "MACs", "file", "smaller", metric, "change", "latency", "faster"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.files:
        table.add_row(*_cells(row, report))
    out.width = max(out.width, out.measure(table, options=out.options.update_width(UNBOUNDED)).maximum)
    facts = f"seed {report.seed}, {report.wall_time_s:.0f} s; baseline: {report.baseline}"
    out.print(write.printable(f"{report.recipe} ({facts})"))
    out.print()
    out.print(table)
    out.print()
    out.print(write.conditions(report), style="dim")
    _predictions(report, out)
    for findings in report.findings:
        _findings(findings, out)
    for name, remark in write.remarks(report):
        out.print(f"{write.printable(name)}: {write.printable(remark)}", style="yellow")
    for name, sentence in distillation.sentences(report):
        out.print(f"{write.printable(name)}: {write.printable(sentence)}")
    for result in report.gates:
        style = "red" if not result.passes else "green" if result.outcome == "met" else "yellow"
        out.print(write.printable(f"gate {write.gate(result)}"), style=style)
    for sentence in report.limits:
        out.print(write.printable(f"limit: {sentence}"), style="yellow")


def _predictions(report: Report, out: Console) -> None:
    """Each model's answers compared with the baseline's."""
    pairs = [(row, row.predictions) for row in report.files if row.predictions]
    if not pairs:
        return
    table = _table(write.prediction_headings(report))
    for row, comparison in pairs:
        style = {"better": "green", "worse": "red"}.get(row.change_verdict or "", "")
        table.add_row(
            Text(write.printable(row.title)),
            Text(write.verdict(row).replace(" (", "\n("), style),
            _two(*write.cell("agreement", comparison.agreement)),
            Text(write.samples(comparison.right_to_wrong)),
            Text(write.samples(comparison.wrong_to_right)),
            _two(*write.cell("kl", comparison.kl)),
            _two(*write.cell("ece", comparison.ece)),
            Text(write.printable(write.worst_class(comparison))),
        )
    out.print()
    out.print(table)
    out.print()
    out.print(write.printable(write.about_predictions(report)), style="dim")
    if steps := write.stage_by_stage(report):
        out.print(write.printable(steps))


def _findings(source: FindingsTable, out: Console) -> None:
    findings = source.findings
    table = _table([findings.what, *map(write.title, findings.columns)])
    for line in findings.lines:
        cells = zip(findings.columns, line.cells, strict=True)
        table.add_row(Text(write.printable(line.name)), *(_two(*write.cell(name, cell)) for name, cell in cells))
    out.print()
    out.print(write.printable(write.heading(source)), style="bold")
    out.print()
    out.print(table)
    out.print()
    out.print(write.printable(f"{findings.about} Run by {findings.side}."), style="dim")


def _table(headings: list[str]) -> Table:
    """The first column holds names, the others figures."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for column, heading in enumerate(headings):
        table.add_column(write.printable(heading), justify="right" if column else "left", overflow="fold", max_width=24)
    return table


def _cells(row: Row, report: Report) -> list[Text]:
    name, (latency, baseline) = report.primary, write.latency(row)
    return [
        Text(write.printable(row.title)),
        _two(write.count(row.parameters), write.numbers(row) if row.kinds else ""),
        Text(write.count(row.macs)),
        Text(write.size(row.size_bytes)),
        Text(write.times(row.compression_ratio)),
        _two(*write.cell(name, row.metrics.get(name))),
        _two(*write.cell(name, row.change, signed=True)),
        _two(latency, baseline.removesuffix(" ms")),
        _two(*write.speedup(row), style={"faster": "green", "slower": "red"}.get(row.verdict or "", "")),
    ]


def _two(value: str, below: str, style: str = "") -> Text:
    """A figure with its interval, or what it compares with, under it."""
    return Text.assemble((value, style), "\n", (below, "dim")) if below else Text(value, style)

"""The report as a table on a terminal of 100 columns."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress_cli.report import FindingsTable, Report, Row, distillation
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING

WIDTH = 100


def show(report: Report, console: Console | None = None) -> None:
    """Print the table, what it was measured on, and what has to be said in words. Default: standard output."""
    out = console or Console(highlight=False, markup=False)
    out.width = max(out.width, WIDTH)  # cut figures are no figures: a narrower window shows the lines wrapped
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column(
        "model", overflow="fold", min_width=min(16, max((len(row.name) for row in report.rows), default=5)), max_width=16
    )
    metric = write.title(report.primary) or "metric"
    for heading in ("params", "MACs", "file", "smaller", metric, "change", "latency", "faster"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(*_cells(row, report))
    facts = f"seed {report.seed}, {report.wall_time_s:.0f} s; baseline: {report.baseline}"
    out.print(write.printable(f"{report.recipe} ({facts})"))
    out.print()
    out.print(table)
    out.print()
    out.print(write.conditions(report), style="dim")
    _predictions(report, out)
    for found in report.findings:
        _found(found, out)
    for name, remark in write.remarks(report):
        out.print(f"{write.printable(name)}: {write.printable(remark)}", style="yellow")
    for name, sentence in distillation.told(report):
        out.print(f"{write.printable(name)}: {write.printable(sentence)}")
    for judged in report.gates:
        style = "red" if not judged.passes else "green" if judged.outcome == "met" else "yellow"
        out.print(write.printable(f"gate {write.gate(judged)}"), style=style)


def _predictions(report: Report, out: Console) -> None:
    """Each model's answers beside the baseline's."""
    rows = [row for row in report.rows if row.predictions]
    if not rows:
        return
    table = _table(write.prediction_headings(report))
    for row in rows:
        comparison = row.predictions
        assert comparison is not None
        style = {"better": "green", "worse": "red"}.get(row.change_verdict or "", "")
        table.add_row(
            Text(write.printable(row.name)),
            Text(write.verdict(row).replace(" (", "\n("), style),
            _two(*write.cell("agreement", comparison.agreement)),
            Text(write.samples(comparison.right_to_wrong)),
            Text(write.samples(comparison.wrong_to_right)),
            _two(*write.cell("kl", comparison.kl)),
            _two(*write.cell("ece", comparison.ece)),
            Text(write.printable(write.hurt(comparison))),
        )
    out.print()
    out.print(table)
    out.print()
    out.print(write.printable(write.about_predictions(report)), style="dim")
    if way := write.way(report):
        out.print(write.printable(way))


def _found(found: FindingsTable, out: Console) -> None:
    findings = found.findings
    table = _table([findings.what, *map(write.title, findings.columns)])
    for line in findings.lines:
        cells = zip(findings.columns, line.cells, strict=True)
        table.add_row(Text(write.printable(line.name)), *(_two(*write.cell(name, cell)) for name, cell in cells))
    out.print()
    out.print(write.printable(write.heading(found)), style="bold")
    out.print()
    out.print(table)
    out.print()
    out.print(write.printable(f"{findings.about} Run by {findings.side}."), style="dim")


def _table(headings: list[str]) -> Table:
    """The first column holds names, the others figures."""
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for place, heading in enumerate(headings):
        table.add_column(write.printable(heading), justify="right" if place else "left", overflow="fold", max_width=24)
    return table


def _cells(row: Row, report: Report) -> list[Text]:
    primary = row.metrics.get(report.primary)
    metric = (
        (write.metric(report.primary, primary.value), write.interval(report.primary, primary)) if primary else (NOTHING, "")
    )
    change = (NOTHING, "")
    if row.change:
        change = (write.metric(report.primary, row.change.value, True), write.interval(report.primary, row.change, True))
    speed = (NOTHING, "")
    if row.speedup:
        speed = (write.times(row.speedup.value), f"[{row.speedup.low:.2f}, {row.speedup.high:.2f}]")
    return [
        Text(write.printable(row.name)),
        _two(write.count(row.parameters), write.numbers(row) if row.kinds else ""),
        Text(write.count(row.macs)),
        Text(write.size(row.size_bytes)),
        Text(write.times(row.compression_ratio)),
        _two(*metric),
        _two(*change),
        Text(write.milliseconds(row.latency.p50_ms.value if row.latency else None)),
        _two(*speed, style={"faster": "green", "slower": "red"}.get(row.verdict or "", "")),
    ]


def _two(value: str, below: str, style: str = "") -> Text:
    """A figure with its interval under it."""
    return Text.assemble((value, style), "\n", (below, "dim")) if below else Text(value, style)

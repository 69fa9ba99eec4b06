"""The report as Markdown, for a pull request or a README."""

from __future__ import annotations

import html
import re

from compress_cli.report import FindingsTable, Report, Row, distillation
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING
from compress_cli.statistics.intervals import Estimate

_MARKS = {True: "passed", False: "**failed**"}


def render(report: Report) -> str:
    """A heading, the table, what it was measured on, and what has to be said in words."""
    primary = plain(write.title(report.primary)) or "metric"
    headings = ["model", "parameters", "numbers", "MACs", "file", "smaller", primary, "change", "latency", "faster"]
    lines = [
        f"# {plain(report.recipe)}",
        "",
        f"Seed {report.seed}, {report.wall_time_s:.0f} s; baseline: {plain(report.baseline)}.",
        "",
        *table(headings, [_cells(row, report) for row in report.rows]),
        "",
        plain(write.conditions(report)),
    ]
    lines += _predictions(report)
    for found in report.findings:
        lines += _found(found)
    remarks = [f"- {plain(name)}: {plain(remark)}" for name, remark in (*write.remarks(report), *distillation.told(report))]
    gates = [_line([_MARKS[each.passes], plain(write.gate(each))]) for each in report.gates]
    head = ["", _line(["", "gate"]), _line(["---", "---"])] if gates else []
    return "\n".join([*lines, *([""] if remarks else []), *remarks, *head, *gates]) + "\n"


def _predictions(report: Report) -> list[str]:
    """Each model's answers beside the baseline's."""
    rows = [(row, row.predictions) for row in report.rows if row.predictions]
    lines = [
        [
            plain(row.name),
            plain(write.verdict(row) or NOTHING),
            _figure("agreement", comparison.agreement),
            write.samples(comparison.right_to_wrong),
            write.samples(comparison.wrong_to_right),
            _figure("kl", comparison.kl),
            _figure("ece", comparison.ece),
            plain(write.hurt(comparison)),
        ]
        for row, comparison in rows
    ]
    if not lines:
        return []
    way = write.way(report)
    said = [plain(write.about_predictions(report)), *(["", plain(way)] if way else [])]
    return ["", *table(write.prediction_headings(report), lines), "", *said]


def _found(found: FindingsTable) -> list[str]:
    findings = found.findings
    lines = [
        [plain(line.name), *(_figure(name, cell) for name, cell in zip(findings.columns, line.cells, strict=True))]
        for line in findings.lines
    ]
    headings = [plain(each) for each in (findings.what, *map(write.title, findings.columns))]
    said = plain(f"{findings.about} Run by {findings.side}.")
    return ["", f"## {plain(write.heading(found))}", "", *table(headings, lines), "", said]


def _figure(name: str, found: Estimate | float | None) -> str:
    return " ".join(write.cell(name, found)).strip()


def table(headings: list[str], lines: list[list[str]]) -> list[str]:
    return [_line(headings), _line(["---", *["---:"] * (len(headings) - 1)]), *map(_line, lines)]


def _cells(row: Row, report: Report) -> list[str]:
    name, primary = report.primary, row.metrics.get(report.primary)
    metric = f"{write.metric(name, primary.value)} {write.interval(name, primary)}" if primary else NOTHING
    change = f"{write.metric(name, row.change.value, True)} {write.interval(name, row.change, True)}" if row.change else NOTHING
    speed = (
        f"{write.times(row.speedup.value)} [{row.speedup.low:.2f}, {row.speedup.high:.2f}], {row.verdict}"
        if row.speedup
        else NOTHING
    )
    return [
        plain(row.name),
        write.count(row.parameters),
        plain(write.numbers(row)),
        write.count(row.macs),
        write.size(row.size_bytes),
        write.times(row.compression_ratio),
        metric,
        change,
        write.milliseconds(row.latency.p50_ms.value if row.latency else None),
        speed,
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """Text that means itself: no Markdown, no HTML, no column of its own."""
    one_line = html.escape(write.printable(" ".join(text.split())), quote=False)
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", one_line)

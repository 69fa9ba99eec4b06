"""The report as Markdown, for a pull request or a README."""

from __future__ import annotations

import html
import re

from compress_cli.report import FindingsTable, Report, Row, distillation, quantisation
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING
from compress_cli.statistics.intervals import Estimate

_MARKS = {True: "passed", False: "**failed**"}


def render(report: Report) -> str:
    """A heading, the tables, what they were measured on, and remarks."""
    primary = plain(write.title(report.primary)) or "metric"
    headings = ["model", "parameters", "number type", "MACs", "file", "smaller", primary, "change", "latency", "faster"]
    lines = [
        f"# {plain(report.recipe)}",
        "",
        f"Seed {report.seed}, {report.wall_time_s:.0f} s; baseline: {plain(report.baseline)}.",
        "",
        *table(headings, [_cells(row, report) for row in report.files]),
        "",
        plain(write.conditions(report)),
    ]
    lines += _predictions(report)
    for findings in report.findings:
        lines += _findings(findings)
    lines += _layers(report)
    remarks = [f"- {plain(name)}: {plain(text)}" for name, text in (*write.remarks(report), *distillation.sentences(report))]
    gates = [_line([_MARKS[result.passes], plain(write.gate(result))]) for result in report.gates]
    head = ["", _line(["", "gate"]), _line(["---", "---"])] if gates else []
    limits = [f"- limit: {plain(sentence)}" for sentence in report.limits]
    end = ["", *limits] if limits else []
    return "\n".join([*lines, *([""] if remarks else []), *remarks, *head, *gates, *end]) + "\n"


def _predictions(report: Report) -> list[str]:
    """Each model's answers compared with the baseline's."""
    rows = [(row, row.predictions) for row in report.files if row.predictions]
    lines = [
        [
            plain(row.title),
            plain(write.verdict(row) or NOTHING),
            _figure("agreement", comparison.agreement),
            write.samples(comparison.right_to_wrong),
            write.samples(comparison.wrong_to_right),
            _figure("kl", comparison.kl),
            _figure("ece", comparison.ece),
            plain(write.worst_class(comparison)),
        ]
        for row, comparison in rows
    ]
    if not lines:
        return []
    steps = write.stage_by_stage(report)
    about = [plain(write.about_predictions(report)), *(["", plain(steps)] if steps else [])]
    return ["", *table(write.prediction_headings(report), lines), "", *about]


def _findings(source: FindingsTable) -> list[str]:
    findings = source.findings
    lines = [
        [plain(line.name), *(_figure(name, cell) for name, cell in zip(findings.columns, line.cells, strict=True))]
        for line in findings.lines
    ]
    headings = [plain(heading) for heading in (findings.what, *map(write.title, findings.columns))]
    about = plain(f"{findings.about} Run by {findings.side}.")
    return ["", f"## {plain(write.heading(source))}", "", *table(headings, lines), "", about]


def _layers(report: Report) -> list[str]:
    """Of each quantised model, its layers in a line."""
    lines = [[plain(cell) for cell in quantisation.summary(row)] for row in report.files if row.layers]
    if not lines:
        return []
    about = "Worst layers in brackets. Every layer, with its ranges, stands in report.html and report.json."
    return ["", "## Quantised layers", "", *table(quantisation.SUMMARY, lines), "", about]


def _figure(name: str, figure: Estimate | float | None, signed: bool = False) -> str:
    return " ".join(write.cell(name, figure, signed)).strip()


def table(headings: list[str], lines: list[list[str]]) -> list[str]:
    return [_line(headings), _line(["---", *["---:"] * (len(headings) - 1)]), *map(_line, lines)]


def _cells(row: Row, report: Report) -> list[str]:
    name = report.primary
    speedup = " ".join(write.speedup(row)).strip()
    return [
        plain(row.title),
        write.count(row.parameters),
        plain(write.numbers(row)),
        write.count(row.macs),
        write.size(row.size_bytes),
        write.times(row.compression_ratio),
        _figure(name, row.metrics.get(name)),
        _figure(name, row.change, signed=True),
        " ".join(write.latency(row)).strip(),
        f"{speedup}, {row.verdict}" if row.verdict else speedup,
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """Text that means itself: no Markdown, no HTML, no column of its own."""
    one_line = html.escape(write.printable(" ".join(text.split())), quote=False)
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", one_line)

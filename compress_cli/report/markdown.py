"""The report as Markdown, for a pull request or a README."""

from __future__ import annotations

import html
import re

from compress_cli.report import Report, Row, distillation
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING

_MARKS = {True: "passed", False: "**failed**"}


def render(report: Report) -> str:
    """A heading, the table, what it was measured on, and what has to be said in words."""
    primary = write.title(report.primary) or "metric"
    headings = ["model", "parameters", "numbers", "MACs", "file", "smaller", primary, "change", "latency", "faster"]
    lines = [
        f"# {_plain(report.recipe)}",
        "",
        f"Seed {report.seed}, {report.wall_time_s:.0f} s; baseline: {_plain(report.baseline)}.",
        "",
        _line(headings),
        _line(["---", *["---:"] * (len(headings) - 1)]),
        *(_line(_cells(row, report)) for row in report.rows),
        "",
        _plain(write.conditions(report)),
    ]
    remarks = [f"- {_plain(name)}: {_plain(remark)}" for name, remark in (*write.remarks(report), *distillation.told(report))]
    gates = [_line([_MARKS[each.passes], _plain(write.gate(each))]) for each in report.gates]
    head = ["", _line(["", "gate"]), _line(["---", "---"])] if gates else []
    return "\n".join([*lines, *([""] if remarks else []), *remarks, *head, *gates]) + "\n"


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
        _plain(row.name),
        write.count(row.parameters),
        write.numbers(row),
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


def _plain(text: str) -> str:
    """Text that means itself: no Markdown, no HTML, no column of its own."""
    one_line = html.escape(write.printable(" ".join(text.split())), quote=False)
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", one_line)

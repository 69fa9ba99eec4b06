"""The report as one HTML page that opens offline: plots, tables, curves, recipe, environment. It runs no script."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from compress_cli import artifact
from compress_cli.intervals import Estimate
from compress_cli.record import Record
from compress_cli.report import Report, Row, distillation, plots
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING
from compress_cli.report.plots import Point

LOCK = "recipe.lock.yaml"
STYLE = (Path(__file__).parent / "page.css").read_text()
HARMLESS = "default-src 'none'; style-src 'unsafe-inline'"
"""A page that loads and runs nothing, whatever a name in it may say."""


@dataclass(frozen=True)
class Background:
    """What a page tells besides the report: how the stages went, and with what."""

    facts: dict[str, dict[str, Any]]  # row name -> what its stage noted
    environment: dict[str, Any]
    lock: str


def background(directory: Path) -> Background:
    """Of the run in `directory`; what is not there is left out."""
    record = Record.read(directory)
    found = {row.name: artifact.read(directory / record.store / row.key) for row in record.rows}
    lock = directory / LOCK
    facts = {name: each.manifest.facts for name, each in found.items() if each}
    environments = [each.manifest.environment for each in found.values() if each]
    return Background(facts, environments[-1] if environments else {}, lock.read_text() if lock.is_file() else "")


def render(report: Report, behind: Background) -> str:
    """The whole page."""
    name = _text(report.recipe)
    parts = [
        f"<h1>{name}</h1>",
        f'<p class="facts">Seed {report.seed}, {report.wall_time_s:.0f} s; baseline: {_text(report.baseline)}. '
        f"{_text(write.conditions(report))}</p>",
        _gates(report),
        _planes(report),
        f"<h2>Models</h2>{_models(report)}{_remarks(report)}",
        f"<h2>What each stage bought, and what it cost</h2>{_stages(report)}",
        _training(behind),
        f"<h2>Environment</h2>{_environment(report, behind)}",
        f"<details><summary>The recipe as it was run</summary><pre>{_text(behind.lock, lines=True)}</pre></details>"
        if behind.lock
        else "",
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{HARMLESS}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><main>\n{chr(10).join(part for part in parts if part)}\n</main></body></html>\n"
    )


def _gates(report: Report) -> str:
    if not report.gates:
        return ""
    lines = [
        f'<li class="{"pass" if each.passes else "fail"}">{"✓" if each.passes else "✗"} {_text(write.gate(each))}</li>'
        for each in report.gates
    ]
    return f'<h2>Gates</h2><ul class="gates">{"".join(lines)}</ul>'


def _planes(report: Report) -> str:
    """Bytes and latency against the primary metric."""
    name = report.primary
    sizes, times = [], []
    for row in report.rows:
        metric = row.metrics.get(name)
        if metric is None:
            continue
        y = (metric.low, metric.value, metric.high)
        if row.size_bytes:
            sizes.append(Point(row.name, (row.size_bytes,) * 3, y))
        if row.latency:
            middle = row.latency.p50_ms
            times.append(Point(row.name, (middle.low, middle.value, middle.high), y))
    drawn = [
        f"<figure>{plots.scatter(_joined(points), title, write.title(name), say, partial(write.metric, name))}</figure>"
        for points, title, say in (
            (sizes, "file size", _bytes),
            (times, "latency (median)", write.milliseconds),
        )
        if points
    ]
    said = "<p>Up and to the left is better. Bars are 95% intervals.</p>" if drawn else ""
    return f'<h2>What it costs to be right</h2>{said}<div class="plots">{"".join(drawn)}</div>' if drawn else ""


def _joined(points: list[Point]) -> list[Point]:
    """Models that are the same file, such as a quantised one and its export, as one point."""
    names: dict[tuple[tuple[float, float, float], ...], list[str]] = {}
    for each in points:
        names.setdefault((each.x, each.y), []).append(each.name)
    return [Point(", ".join(each), *place) for place, each in names.items()]


def _bytes(value: float) -> str:
    return f"{value / 1e6:.3g} MB" if value >= 1e6 else f"{value / 1e3:.3g} kB"


def _models(report: Report) -> str:
    name = report.primary
    headings = ["model", "parameters", "numbers", "MACs", "file", "smaller", write.title(name) or "metric", "change"]
    return _table([*headings, "latency", "faster"], [_model(row, report) for row in report.rows])


def _model(row: Row, report: Report) -> list[str]:
    name, speedup = report.primary, row.speedup
    return [
        f"<b>{_text(row.name)}</b>",
        write.count(row.parameters),
        _text(write.numbers(row)),
        write.count(row.macs),
        write.size(row.size_bytes),
        write.times(row.compression_ratio),
        _measured(name, row.metrics.get(name)),
        _measured(name, row.change, signed=True),
        write.milliseconds(row.latency.p50_ms.value if row.latency else None),
        f'{write.times(speedup.value)} <small>[{speedup.low:.2f}, {speedup.high:.2f}]</small><br><small class="verdict '
        f'{(row.verdict or "").partition(" ")[0]}">{row.verdict}</small>'
        if speedup
        else NOTHING,
    ]


def _measured(name: str, estimate: Estimate | None, signed: bool = False) -> str:
    if estimate is None:
        return NOTHING
    return f"{write.metric(name, estimate.value, signed)} <small>{write.interval(name, estimate, signed)}</small>"


def _remarks(report: Report) -> str:
    lines = "".join(
        f"<li><b>{_text(name)}</b>: {_text(remark)}</li>"
        for name, remark in (*write.remarks(report), *distillation.told(report))
    )
    return f"<ul>{lines}</ul>" if lines else ""


def _stages(report: Report) -> str:
    """Each model beside the one above it. Both were measured on the same samples, but only the change against the baseline
    has an interval of its own."""
    lines = []
    for before, row in zip((None, *report.rows[:-1]), report.rows, strict=True):
        old, new = (each.metrics.get(report.primary) if each else None for each in (before, row))
        spent = [
            f"<b>{_text(row.name)}</b>",
            _text(row.stage),
            f"{row.wall_time_s:.1f} s{' <small>(earlier)</small>' if row.cached else ''}",
        ]
        counted = [
            _fewer(getattr(before, each, None), getattr(row, each)) for each in ("parameters", "macs", "size_bytes")
        ]  # fmt: skip
        gained = write.metric(report.primary, new.value - old.value, True) if old and new else NOTHING
        lines.append([*spent, *counted, _quicker(before, row, report), gained])
    headings = ["stage", "kind", "time", "parameters", "MACs", "bytes", "latency", write.title(report.primary) or "metric"]
    return f"<p>Each beside the line above it: 2.00x is half as much.</p>{_table(headings, lines, words=2)}"


def _quicker(before: Row | None, row: Row, report: Report) -> str:
    """The ratio of two speed-ups, each timed in turn with the baseline: latencies of different moments don't compare."""
    old, new = (_speedup(each, report) for each in (before, row))
    return write.times(new / old) if old and new else NOTHING


def _speedup(row: Row | None, report: Report) -> float | None:
    if row is None:
        return None
    return 1.0 if row.name == report.baseline else row.speedup.value if row.speedup else None


def _fewer(before: float | None, after: float | None) -> str:
    return write.times(before / after) if before and after else NOTHING


def _training(behind: Background) -> str:
    """A plot for each figure that the stages noted epoch by epoch."""
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, facts in behind.facts.items():
        for epoch, figure, value in _epochs(facts.get("epochs")):
            lines.setdefault(figure, {}).setdefault(name, []).append((epoch, value))
    drawn = []
    for figure, curves in lines.items():
        spread = not figure.endswith("accuracy")  # losses fall by orders of magnitude
        plot = plots.curves(curves, "epoch", write.title(figure), partial(write.metric, figure), spread)
        drawn.append(f"<figure>{plot}</figure>")
    said = "<p>Metrics are those of the val split, which chooses the epoch that is kept.</p>"
    return f'<h2>Training</h2>{said}<div class="plots">{"".join(drawn)}</div>' if drawn else ""


def _epochs(noted: Any) -> Iterator[tuple[int, str, float]]:
    """Epoch, figure and value of what a stage noted; a stage from outside may note other things under that name."""
    for each in noted if isinstance(noted, list) else []:
        if isinstance(each, dict) and isinstance(each.get("epoch"), int):
            for figure, value in each.items():
                if figure not in ("epoch", "learning_rate") and isinstance(value, int | float) and math.isfinite(value):
                    yield each["epoch"], figure, value


def _environment(report: Report, behind: Background) -> str:
    known: dict[str, Any] = {**{f"latency: {name}": each for name, each in report.machine.items()}, **behind.environment}
    lines = []
    for name, each in known.items():
        told = ", ".join(f"{key} {value}" for key, value in each.items()) if isinstance(each, dict) else each
        lines.append([_text(name), _text(told if isinstance(told, str) else json.dumps(told))])
    return _table(["what", ""], lines, words=2)


def _table(headings: list[str], lines: list[list[str]], words: int = 1) -> str:
    """The first `words` columns hold text, the others figures. Cells are HTML already."""

    def row(tag: str, cells: list[str]) -> str:
        marks = ["" if place < words else ' class="n"' for place in range(len(cells))]
        return "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, cells, strict=True))

    head = row("th", [_text(each) for each in headings])
    body = "".join(f"<tr>{row('td', line)}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(text: str, lines: bool = False) -> str:
    """Text that means itself; its lines are kept where they count."""
    if lines:
        return "\n".join(escape(write.printable(line)) for line in text.split("\n"))
    return escape(write.printable(text))

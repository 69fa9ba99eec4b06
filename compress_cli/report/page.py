"""The report as one HTML page that opens offline: plots, tables, curves, recipe, environment. It runs no script."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from compress_cli.data import arrays, pictures
from compress_cli.measurement.measure import PICTURES
from compress_cli.report import Report, Row, distillation, html, plots, predictions
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING
from compress_cli.report.html import measured, table, text
from compress_cli.report.plots import Point
from compress_cli.store import artifact
from compress_cli.store.record import Record

LOCK = "recipe.lock.yaml"
LONGEST = 96  # pixels of a picture's longer side


@dataclass(frozen=True)
class Background:
    """What a page tells besides the report: how the stages went, and with what."""

    facts: dict[str, dict[str, Any]]  # row name -> what its stage noted
    environment: dict[str, Any]
    lock: str
    pictures: dict[int, bytes] = field(default_factory=dict)
    """Sample id -> PNG, of what the last model answers otherwise than the baseline."""


def background(directory: Path) -> Background:
    """Of the run in `directory`; what is not there is left out."""
    record = Record.read(directory)
    store = directory / record.store
    found = {row.name: artifact.read(store / row.key) for row in record.rows}
    lock = directory / LOCK
    facts = {name: each.manifest.facts for name, each in found.items() if each}
    environments = [each.manifest.environment for each in found.values() if each]
    compared = next((row.predictions for row in reversed(record.rows) if row.predictions), None)
    return Background(
        facts,
        environments[-1] if environments else {},
        lock.read_text() if lock.is_file() else "",
        _pictures(store / compared / PICTURES) if compared else {},
    )


def _pictures(path: Path) -> dict[int, bytes]:
    if not path.is_file():  # the inputs are no pictures, or none changed sides
        return {}
    held = arrays.read(path, ("index", "images"))
    return {index: pictures.png(pixels, LONGEST) for index, pixels in zip(held["index"].tolist(), held["images"], strict=True)}


def render(report: Report, behind: Background) -> str:
    """The whole page."""
    parts = [
        f"<h1>{text(report.recipe)}</h1>",
        f'<p class="facts">Seed {report.seed}, {report.wall_time_s:.0f} s; baseline: {text(report.baseline)}. '
        f"{text(write.conditions(report))}</p>",
        _tiles(report),
        _gates(report),
        _planes(report),
        f"<h2>Models</h2>{_models(report)}{_remarks(report)}",
        f"<h2>What each stage bought, and what it cost</h2>{_stages(report)}{predictions.waterfall(report)}",
        _answers(report, behind),
        *(predictions.found(each, report.better) for each in report.findings),
        _training(behind),
        f"<h2>Environment</h2>{_environment(report, behind)}",
        f"<details><summary>The recipe as it was run</summary><pre>{text(behind.lock, lines=True)}</pre></details>"
        if behind.lock
        else "",
    ]
    return html.document(report.recipe, parts)


def _tiles(report: Report) -> str:
    """The last model beside the baseline, in four figures."""
    row, name = report.rows[-1] if report.rows else None, report.primary
    if row is None or row.name == report.baseline:
        return ""
    tiles: list[tuple[str, str, str]] = []
    if row.compression_ratio:
        tiles.append(("smaller", write.times(row.compression_ratio), write.size(row.size_bytes)))
    if row.speedup and row.verdict:
        tiles.append((row.verdict, write.times(row.speedup.value), f"[{row.speedup.low:.2f}, {row.speedup.high:.2f}] at 99%"))
    metric = row.metrics.get(name)
    if metric:
        change = f"{write.metric(name, row.change.value, True)} {write.interval(name, row.change, True)}" if row.change else ""
        verdict = f": {row.change_verdict}" if row.change_verdict else ""
        tiles.append((write.title(name), write.metric(name, metric.value), f"{change}{verdict}"))
    if row.predictions:
        agreement = row.predictions.agreement
        said = f"{write.samples(row.predictions.right_to_wrong)} lost, {write.samples(row.predictions.wrong_to_right)} gained"
        tiles.append(("same answer %", write.metric("agreement", agreement.value), said))
    drawn = [
        f'<div class="tile"><span>{text(what)}</span><b>{text(value)}</b><small>{text(said)}</small></div>'
        for what, value, said in tiles
    ]
    said = f"<p><b>{text(row.name)}</b> beside {text(report.baseline)}:</p>"
    return f'{said}<div class="tiles">{"".join(drawn)}</div>' if drawn else ""


def _answers(report: Report, behind: Background) -> str:
    """What changed in the answers; nothing where the task has no classes."""
    table = predictions.answers(report)
    if not table:
        return ""
    return f"<h2>Answers that changed</h2>{table}{predictions.classes(report)}{predictions.changed(report, behind.pictures)}"


def _gates(report: Report) -> str:
    if not report.gates:
        return ""
    lines = [
        f'<li class="{"fail" if not each.passes else "pass" if each.outcome == "met" else "let"}">'
        f"{'✗' if not each.passes else '✓' if each.outcome == 'met' else '○'} {text(write.gate(each))}</li>"
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
        if (latency := _latency(row, report)) is not None:
            times.append(Point(row.name, latency, y))
    drawn = [
        f"<figure>{plots.scatter(_joined(points), title, write.title(name), say, partial(write.metric, name))}</figure>"
        for points, title, say in (
            (sizes, "file size", _bytes),
            (times, "latency (median)", write.milliseconds),
        )
        if points
    ]
    timed = " Latency is the baseline's, divided by each speed-up: those were timed in turn." if times else ""
    said = f"<p>Up and to the left is better. Bars are intervals.{timed}</p>" if drawn else ""
    return f'<h2>What it costs to be right</h2>{said}<div class="plots">{"".join(drawn)}</div>' if drawn else ""


def _latency(row: Row, report: Report) -> tuple[float, float, float] | None:
    """Milliseconds of the baseline divided by the speed-up: what was timed at different moments does not compare."""
    baseline = next((each.latency for each in report.rows if each.name == report.baseline), None)
    if baseline and row.name == report.baseline:
        return (baseline.p50_ms.value,) * 3
    if baseline and row.speedup:
        low, value, high = (baseline.p50_ms.value / each for each in (row.speedup.high, row.speedup.value, row.speedup.low))
        return low, value, high
    return None


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
    return table([*headings, "latency", "faster"], [_model(row, report) for row in report.rows])


def _model(row: Row, report: Report) -> list[str]:
    name, speedup = report.primary, row.speedup
    return [
        f"<b>{text(row.name)}</b>",
        write.count(row.parameters),
        text(write.numbers(row)),
        write.count(row.macs),
        write.size(row.size_bytes),
        write.times(row.compression_ratio),
        measured(name, row.metrics.get(name)),
        measured(name, row.change, signed=True),
        write.milliseconds(row.latency.p50_ms.value if row.latency else None),
        f'{write.times(speedup.value)} <small>[{speedup.low:.2f}, {speedup.high:.2f}]</small><br><small class="verdict '
        f'{(row.verdict or "").partition(" ")[0]}">{row.verdict}</small>'
        if speedup
        else NOTHING,
    ]


def _remarks(report: Report) -> str:
    lines = "".join(
        f"<li><b>{text(name)}</b>: {text(remark)}</li>" for name, remark in (*write.remarks(report), *distillation.told(report))
    )
    return f"<ul>{lines}</ul>" if lines else ""


def _stages(report: Report) -> str:
    """Each model beside the one it was made from, on the same samples."""
    rows = {row.name: row for row in report.rows}
    lines = []
    for row in report.rows:
        before = rows.get(row.made_from or (report.baseline if row.name != report.baseline else ""))
        spent = [
            f"<b>{text(row.name)}</b>",
            text(row.stage),
            text(before.name) if before else NOTHING,
            f"{row.wall_time_s:.1f} s{' <small>(earlier)</small>' if row.cached else ''}",
        ]
        counted = [
            _fewer(getattr(before, each, None), getattr(row, each)) for each in ("parameters", "macs", "size_bytes")
        ]  # fmt: skip
        lines.append([*spent, *counted, _quicker(before, row, report), measured(report.primary, row.gained, signed=True)])
    headings = ["stage", "kind", "beside", "time", "parameters", "MACs", "bytes", "latency"]
    said = "<p>Each beside the model that it was made from, or else the baseline: 2.00x is half as much.</p>"
    return said + table([*headings, write.title(report.primary) or "metric"], lines, words=3)


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
    return f'<h2>TrainingConfig</h2>{said}<div class="plots">{"".join(drawn)}</div>' if drawn else ""


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
        lines.append([text(name), text(told if isinstance(told, str) else json.dumps(told))])
    return table(["what", ""], lines, words=2)

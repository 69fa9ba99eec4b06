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
from compress_cli.measurement.latency import Verdict
from compress_cli.measurement.measure import PICTURES
from compress_cli.report import Report, Row, charts, distillation, html, plots, predictions, quantisation
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING
from compress_cli.report.html import measured, table, text
from compress_cli.report.plots import Point
from compress_cli.statistics.charts import Chart
from compress_cli.statistics.intervals import Change
from compress_cli.store import artifact
from compress_cli.store.record import Record

LOCK = "recipe.lock.yaml"
LONGEST = 96  # pixels of a picture's longer side
VERDICTS: dict[Verdict, str] = {
    "faster": "faster", "slower": "slower", "same": "equally fast", "too noisy to say": "speed: too noisy to say",
}  # fmt: skip
CHANGES: dict[Change, str] = {"better": "better", "worse": "worse", "same": "no certain change"}


@dataclass(frozen=True)
class Background:
    """What a page shows in addition to the report: the stages' facts, and the software."""

    facts: dict[str, dict[str, Any]]  # row name -> what its stage noted
    environment: dict[str, Any]
    lock: str
    pictures: dict[int, bytes] = field(default_factory=dict)
    """Sample id -> PNG, of inputs that the last model and the baseline answer differently."""
    charts: dict[str, list[Chart]] = field(default_factory=dict)
    """Row name -> what its task shows of its answers."""


def background(directory: Path) -> Background:
    """The background of the run in `directory`; missing files are left out."""
    record = Record.read(directory)
    store = directory / record.store
    artifacts = {row.name: artifact.read(store / row.key) for row in record.rows}
    lock = directory / LOCK
    facts = {name: artifact.manifest.facts for name, artifact in artifacts.items() if artifact}
    environments = [artifact.manifest.environment for artifact in artifacts.values() if artifact]
    compared = next((row.predictions for row in reversed(record.rows) if row.predictions), None)
    return Background(
        facts,
        environments[-1] if environments else {},
        lock.read_text() if lock.is_file() else "",
        _pictures(store / compared / PICTURES) if compared else {},
        {row.name: charts.of_measurement(store / row.measurement) for row in record.rows if row.measurement},
    )


def _pictures(path: Path) -> dict[int, bytes]:
    if not path.is_file():  # the inputs are no pictures, or none changed sides
        return {}
    stored = arrays.read(path, ("index", "images"))
    pairs = zip(stored["index"].tolist(), stored["images"], strict=True)
    return {index: pictures.png(pixels, LONGEST) for index, pixels in pairs}


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
        *(predictions.findings(table, report) for table in report.findings if not table.name),
        f"<h2>What each stage gained and cost</h2>{_stages(report)}{predictions.waterfall(report)}",
        _answers(report, behind),
        charts.section(report, behind.charts),
        *(predictions.findings(table, report) for table in report.findings if table.name),
        quantisation.section(report, behind.facts),
        _training(behind),
        f"<h2>Environment</h2>{_environment(report, behind)}",
        f"<details><summary>The recipe as it was run</summary><pre>{text(behind.lock, lines=True)}</pre></details>"
        if behind.lock
        else "",
    ]
    return html.document(report.recipe, parts)


def _tiles(report: Report) -> str:
    """The last model compared with the baseline, in four figures."""
    row, name = report.rows[-1] if report.rows else None, report.primary
    if row is None or row.name == report.baseline:
        return ""
    tiles: list[tuple[str, str, str]] = []
    if row.compression_ratio:
        tiles.append(("smaller", write.times(row.compression_ratio), write.size(row.size_bytes)))
    if row.speedup and row.verdict:
        value, interval = write.speedup(row)
        tiles.append((VERDICTS[row.verdict], value, f"{interval} at 99%"))
    metric = row.metrics.get(name)
    if metric:
        change = " ".join(write.cell(name, row.change, signed=True)) if row.change else ""
        verdict = f": {CHANGES[row.change_verdict]}" if row.change_verdict else ""
        tiles.append((write.title(name), write.metric(name, metric.value), f"{change}{verdict}"))
    if row.predictions:
        lost, gained = (write.samples(share) for share in (row.predictions.right_to_wrong, row.predictions.wrong_to_right))
        agreement = write.metric("agreement", row.predictions.agreement.value)
        tiles.append(("same answer %", agreement, f"{lost} lost, {gained} gained"))
    drawn = [
        f'<div class="tile"><span>{text(what)}</span><b>{text(value)}</b><small>{text(remark)}</small></div>'
        for what, value, remark in tiles
    ]
    heading = f"<p><b>{text(row.name)}</b> compared with {text(report.baseline)}:</p>"
    return f'{heading}<div class="tiles">{"".join(drawn)}</div>' if drawn else ""


def _answers(report: Report, behind: Background) -> str:
    """The answers that changed; empty where the task has no classes."""
    table = predictions.answers(report)
    if not table:
        return ""
    return f"<h2>Answers that changed</h2>{table}{predictions.classes(report)}{predictions.changed(report, behind.pictures)}"


def _gates(report: Report) -> str:
    if not report.gates:
        return ""
    lines = [
        f'<li class="{"fail" if not result.passes else "pass" if result.outcome == "met" else "let"}">'
        f"{'✗' if not result.passes else '✓' if result.outcome == 'met' else '○'} {text(write.gate(result))}</li>"
        for result in report.gates
    ]
    limits = "".join(f"<li>{text(sentence)}</li>" for sentence in report.limits)
    below = f"<p>What limits them:</p><ul>{limits}</ul>" if limits else ""
    return f'<h2>Gates</h2><ul class="gates">{"".join(lines)}</ul>{below}'


def _planes(report: Report) -> str:
    """Bytes and latency against the primary metric."""
    name = report.primary
    sizes, times = [], []
    for row in report.files:
        metric = row.metrics.get(name)
        if metric is None:
            continue
        y = (metric.low, metric.value, metric.high)
        if row.size_bytes:
            sizes.append(Point(row.title, (row.size_bytes,) * 3, y))
        if (latency := _latency(row, report)) is not None:
            times.append(Point(row.title, latency, y))
    drawn = [
        f"<figure>{plots.scatter(points, title, write.title(name), say, partial(write.metric, name))}</figure>"
        for points, title, say in (
            (sizes, "file size", _bytes),
            (times, "latency (median)", write.milliseconds),
        )
        if points
    ]
    timed = " Latency is the baseline's median divided by each speed-up, since those were timed in turn." if times else ""
    up = "Up" if report.better == "higher" else "Down"
    legend = f"<p>{up} and to the left is better. Bars are intervals.{timed}</p>"
    heading = f"<h2>{text(write.title(name))} against size and latency</h2>"
    return f'{heading}{legend}<div class="plots">{"".join(drawn)}</div>' if drawn else ""


def _latency(row: Row, report: Report) -> tuple[float, float, float] | None:
    """Milliseconds of the baseline divided by the speed-up: times taken at different moments can't be compared."""
    baseline = next((other.latency for other in report.rows if other.name == report.baseline), None)
    if baseline and _is_baseline(row, report):
        return (baseline.p50_ms.value,) * 3
    if baseline and row.speedup:
        low, value, high = (baseline.p50_ms.value / ratio for ratio in (row.speedup.high, row.speedup.value, row.speedup.low))
        return low, value, high
    return None


def _is_baseline(row: Row, report: Report) -> bool:
    return report.baseline in (row.name, *row.same_file)


def _bytes(value: float) -> str:
    return f"{value / 1e6:.3g} MB" if value >= 1e6 else f"{value / 1e3:.3g} kB"


def _models(report: Report) -> str:
    name = report.primary
    headings = ["model", "parameters", "number type", "MACs", "file", "smaller", write.title(name) or "metric", "change"]
    return table([*headings, "latency", "faster"], [_model(row, report) for row in report.files])


def _model(row: Row, report: Report) -> list[str]:
    name, (speedup, interval), (latency, baseline) = report.primary, write.speedup(row), write.latency(row)
    verdict = row.verdict or ""
    return [
        f"<b>{text(row.title)}</b>",
        write.count(row.parameters),
        text(write.numbers(row)),
        write.count(row.macs),
        write.size(row.size_bytes),
        write.times(row.compression_ratio),
        measured(name, row.metrics.get(name)),
        measured(name, row.change, signed=True),
        f"{latency}<br><small>{baseline}</small>",
        f'{speedup} <small>{interval}</small><br><small class="verdict {verdict.partition(" ")[0]}">{verdict}</small>',
    ]


def _remarks(report: Report) -> str:
    remarks = (*write.remarks(report), *distillation.sentences(report))
    lines = "".join(f"<li><b>{text(name)}</b>: {text(remark)}</li>" for name, remark in remarks)
    return f"<ul>{lines}</ul>" if lines else ""


def _stages(report: Report) -> str:
    """Each model compared with the one it was made from, on the same samples."""
    rows = {name: row for row in report.files for name in (row.name, *row.same_file)}
    lines = []
    for row in report.files:
        before = rows.get(row.made_from or ("" if _is_baseline(row, report) else report.baseline))
        spent = [
            f"<b>{text(row.title)}</b>",
            text(row.stage),
            text(before.title) if before else NOTHING,
            f"{row.wall_time_s:.1f} s{' <small>(earlier)</small>' if row.cached else ''}",
        ]
        counted = [
            _fewer(getattr(before, count, None), getattr(row, count)) for count in ("parameters", "macs", "size_bytes")
        ]  # fmt: skip
        lines.append([*spent, *counted, _quicker(before, row, report), measured(report.primary, row.gained, signed=True)])
    headings = ["stage", "kind", "made from", "time", "parameters", "MACs", "bytes", "latency"]
    legend = (
        "<p>Each model compared with the one that it was made from, or else the baseline: 2.00x is half the parameters, MACs, "
        "bytes or time.</p>"
    )
    return legend + table([*headings, write.title(report.primary) or "metric"], lines, words=3)


def _quicker(before: Row | None, row: Row, report: Report) -> str:
    """The ratio of two speed-ups, each timed in turn with the baseline: latencies of different moments don't compare."""
    old, new = (_speedup(model, report) for model in (before, row))
    return write.times(new / old) if old and new else NOTHING


def _speedup(row: Row | None, report: Report) -> float | None:
    if row is None:
        return None
    return 1.0 if _is_baseline(row, report) else row.speedup.value if row.speedup else None


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
    legend = "<p>Metrics are those of the val split, which selects the epoch whose weights are used.</p>"
    return f'<h2>Training</h2>{legend}<div class="plots">{"".join(drawn)}</div>' if drawn else ""


def _epochs(noted: Any) -> Iterator[tuple[int, str, float]]:
    """Epoch, figure and value of what a stage noted; a stage from outside may note other things under that name."""
    for epoch in noted if isinstance(noted, list) else []:
        if isinstance(epoch, dict) and isinstance(epoch.get("epoch"), int):
            for figure, value in epoch.items():
                if figure not in ("epoch", "learning_rate") and isinstance(value, int | float) and math.isfinite(value):
                    yield epoch["epoch"], figure, value


def _environment(report: Report, behind: Background) -> str:
    known: dict[str, Any] = {**{f"latency: {name}": fact for name, fact in report.machine.items()}, **behind.environment}
    lines = []
    for name, fact in known.items():
        words = ", ".join(f"{key} {value}" for key, value in fact.items()) if isinstance(fact, dict) else fact
        lines.append([text(name), text(words if isinstance(words, str) else json.dumps(words))])
    return table(["property", "value"], lines, words=2)

"""What compression did to the answers, as parts of the page: where accuracy went, which classes and inputs it cost."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from typing import Literal

from compress_cli.report import FindingsTable, Report, Row, plots
from compress_cli.report import figures as write
from compress_cli.report.document import chain
from compress_cli.report.figures import NOTHING
from compress_cli.report.html import measured, table, text
from compress_cli.report.plots import Bar
from compress_cli.statistics.predictions import ChangedPrediction

CLASSES = 12  # that have a bar; the table has all


def waterfall(report: Report) -> str:
    """The primary metric from the baseline to the last model, stage by stage."""
    rows, name = chain(report), report.primary
    if len(rows) < 2 or any(name not in row.metrics for row in rows):
        return ""
    level = rows[0].metrics[name].value
    bars = [Bar(rows[0].name, (level, level, level), write.metric(name, level), begin=level)]
    for row in rows[1:]:
        if row.gained is None:
            return ""
        low, high = level + row.gained.low, level + row.gained.high
        said = f"{write.metric(name, row.gained.value, True)} {write.interval(name, row.gained, True)}"
        bars.append(Bar(row.name, (low, level + row.gained.value, high), said, begin=level))
        level += row.gained.value
    first, last = (f"{write.metric(name, each)}" for each in (rows[0].metrics[name].value, level))
    plot = plots.bars(bars, f"{write.title(name)} after each stage", partial(write.metric, name), report.better)
    return (
        f"<h3>Where {text(name)} went</h3><p>From {text(report.baseline)} ({first}) to {text(rows[-1].name)} ({last}): each "
        "stage beside the model that it was made from, on the same samples, with a 95% interval of the difference.</p>"
        f"<figure>{plot}</figure>"
    )


def answers(report: Report) -> str:
    """The table of comparison."""
    rows = [(row, row.predictions) for row in report.rows if row.predictions]
    lines = [
        [
            f"<b>{text(row.name)}</b>",
            f'<span class="verdict {row.change_verdict or ""}">{text(write.verdict(row) or NOTHING)}</span>',
            measured("agreement", comparison.agreement),
            write.samples(comparison.right_to_wrong),
            write.samples(comparison.wrong_to_right),
            measured("kl", comparison.kl),
            measured("ece", comparison.ece),
            text(write.hurt(comparison)),
        ]
        for row, comparison in rows
    ]
    if not lines:
        return ""
    baseline = f" That of {text(report.baseline)} is {write.metric('ece', rows[0][1].ece_baseline.value)}%."
    return f"{table(write.prediction_headings(report), lines, words=2)}<p>{text(write.about_predictions(report))}{baseline}</p>"


def classes(report: Report) -> str:
    """The classes of the last model that was compared, those hurt most first."""
    row = _last(report)
    if row is None or row.predictions is None:
        return ""
    found = row.predictions.classes
    say = partial(write.metric, "accuracy_change")
    bars = [
        Bar(
            each.name,
            (each.change.low, each.change.value, each.change.high),
            f"{say(each.change.value)} ({each.samples} samples)",
        )
        for each in found[:CLASSES]
    ]
    plot = plots.bars(bars, "change of the share that is right, in points", say, "higher")
    lines = [
        [
            text(each.name),
            str(each.samples),
            *(write.metric("accuracy", share) for share in (each.before, each.after)),
            measured("accuracy_change", each.change),
        ]
        for each in found
    ]
    whole = table(["class", "samples", report.baseline, row.name, "change"], lines)
    shown = (
        f"The {len(bars)} of {len(found)} classes hurt most" if len(bars) < len(found) else "All classes, those hurt most first"
    )
    worst = measured("worst_class_drop", row.predictions.worst_class_drop)
    return (
        f"<h3>Class by class: {text(row.name)}</h3><p>{shown}; whiskers are 95% "
        f"intervals of each class alone. Largest drop, of all classes together: {worst} points.</p><figure>{plot}</figure>"
        f"<details><summary>All classes</summary>{whole}</details>"
    )


def changed(report: Report, pictures: Mapping[int, bytes]) -> str:
    """Pictures of what the last model answers otherwise than the baseline: sample id -> PNG."""
    row = _last(report)
    shown = [each for each in row.predictions.changed if each.index in pictures] if row and row.predictions else []
    if row is None or row.predictions is None or not shown:
        return ""
    lost, gained = (write.samples(each) for each in (row.predictions.right_to_wrong, row.predictions.wrong_to_right))
    return (
        f"<h3>Inputs that changed sides: {text(row.name)}</h3><p>{lost} lost and {gained} gained of {row.predictions.samples} "
        f"samples; {len(shown)} are shown, those first that {text(report.baseline)} was surest of.</p>"
        f'<div class="pictures">{"".join(_picture(each, pictures[each.index]) for each in shown)}</div>'
    )


def _picture(each: ChangedPrediction, png: bytes) -> str:
    lost = each.before == each.label
    said = f"{each.before} → {each.after}"
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure class="{"lost" if lost else "gained"}"><img src="{source}" alt="sample {each.index}: {text(said)}">'
        f"<figcaption><b>{text(said)}</b><br><small>{'lost' if lost else 'gained'}; is {text(each.label)}</small>"
        "</figcaption></figure>"
    )


def found(each: FindingsTable, better: Literal["higher", "lower"]) -> str:
    """A table on request, and a plot of its change or, without one, of its first column."""
    findings = each.findings
    place = next((number for number, name in enumerate(findings.columns) if name.endswith("_change")), 0)
    name = findings.columns[place]
    bars = []
    for line in findings.lines:
        cell = line.cells[place]
        if cell is not None:
            ends = (cell, cell, cell) if isinstance(cell, float) else (cell.low, cell.value, cell.high)
            bars.append(Bar(line.name, ends, write.metric(name, ends[1])))
    lines = [
        [text(line.name), *(measured(column, cell) for column, cell in zip(findings.columns, line.cells, strict=True))]
        for line in findings.lines
    ]
    drawn = plots.bars(bars, write.title(name), partial(write.metric, name), better) if bars else ""
    headings = [findings.what, *(write.title(column) for column in findings.columns)]
    return (
        f"<h2>{text(write.heading(each))}</h2><p>{text(findings.about)} Run by {findings.side}.</p>"
        f"<figure>{drawn}</figure>{table(headings, lines)}"
    )


def _last(report: Report) -> Row | None:
    return next((row for row in reversed(report.rows) if row.predictions), None)

"""How compression changed the answers, as parts of the page: the metric stage by stage, classes, inputs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial

from compress_cli.report import FindingsTable, Report, Row, plots
from compress_cli.report import figures as write
from compress_cli.report.document import chain
from compress_cli.report.figures import NOTHING
from compress_cli.report.html import measured, table, text
from compress_cli.report.plots import Bar
from compress_cli.statistics.findings import Findings
from compress_cli.statistics.gate import changed as changed_metric
from compress_cli.statistics.predictions import ChangedPrediction

CLASSES = 12  # that have a bar; the table has all


def waterfall(report: Report) -> str:
    """The primary metric from the baseline to the last model, stage by stage."""
    rows, name = chain(report), report.primary
    if len(rows) < 2 or any(name not in row.metrics for row in rows):
        return ""
    level = rows[0].metrics[name].value
    bars = [Bar(rows[0].title, (level, level, level), write.metric(name, level), begin=level)]
    for row in rows[1:]:
        if row.gained is None:
            return ""
        low, high = level + row.gained.low, level + row.gained.high
        label = " ".join(write.cell(name, row.gained, signed=True))
        bars.append(Bar(row.title, (low, level + row.gained.value, high), label, begin=level))
        level += row.gained.value
    first, last = (write.metric(name, value) for value in (rows[0].metrics[name].value, level))
    plot = plots.bars(bars, f"{write.title(name)} after each stage", partial(write.metric, name), report.better)
    return (
        f"<h3>{text(write.title(name))}, stage by stage</h3><p>From {text(report.baseline)} ({first}) to "
        f"{text(rows[-1].title)} ({last}): each model compared with the one that it was made from, on the same samples, with a "
        "95% interval of the difference.</p>"
        f"<figure>{plot}</figure>"
    )


def answers(report: Report) -> str:
    """The table of comparison."""
    rows = [(row, row.predictions) for row in report.files if row.predictions]
    lines = [
        [
            f"<b>{text(row.title)}</b>",
            f'<span class="verdict {row.change_verdict or ""}">{text(write.verdict(row) or NOTHING)}</span>',
            measured("agreement", comparison.agreement),
            write.samples(comparison.right_to_wrong),
            write.samples(comparison.wrong_to_right),
            measured("kl", comparison.kl),
            measured("ece", comparison.ece),
            text(write.worst_class(comparison)),
        ]
        for row, comparison in rows
    ]
    if not lines:
        return ""
    baseline = f" The ECE of {text(report.baseline)} is {write.metric('ece', rows[0][1].ece_baseline.value)}%."
    return f"{table(write.prediction_headings(report), lines, words=2)}<p>{text(write.about_predictions(report))}{baseline}</p>"


def classes(report: Report) -> str:
    """The classes of the last model that was compared, those that lost most first."""
    row = _last(report)
    if row is None or row.predictions is None:
        return ""
    classes = row.predictions.classes
    say = partial(write.metric, "accuracy_change")
    bars = [
        Bar(
            label.name,
            (label.change.low, label.change.value, label.change.high),
            f"{say(label.change.value)} ({label.samples} samples)",
        )
        for label in classes[:CLASSES]
    ]
    plot = plots.bars(bars, "change of the share that is right, in points", say, "higher")
    lines = [
        [
            text(label.name),
            str(label.samples),
            *(write.metric("accuracy", share) for share in (label.before, label.after)),
            measured("accuracy_change", label.change),
        ]
        for label in classes
    ]
    whole = table(["class", "samples", report.baseline, row.title, "change"], lines)
    shown = (
        f"The {len(bars)} of {len(classes)} classes that lost most" if len(bars) < len(classes) else "All classes, worst first"
    )
    worst = measured("worst_class_drop", row.predictions.worst_class_drop)
    return (
        f"<h3>Class by class: {text(row.title)}</h3><p>{shown}; whiskers are 95% "
        f"intervals of each class alone. Largest drop, of all classes together: {worst} points.</p><figure>{plot}</figure>"
        f"<details><summary>All classes</summary>{whole}</details>"
    )


def changed(report: Report, pictures: Mapping[int, bytes]) -> str:
    """Pictures that the last model and the baseline answer differently: sample id -> PNG."""
    row = _last(report)
    shown = [sample for sample in row.predictions.changed if sample.index in pictures] if row and row.predictions else []
    if row is None or row.predictions is None or not shown:
        return ""
    lost, gained = (write.samples(share) for share in (row.predictions.right_to_wrong, row.predictions.wrong_to_right))
    return (
        f"<h3>Inputs that went from right to wrong, or back: {text(row.title)}</h3><p>{lost} lost and {gained} gained of "
        f"{row.predictions.samples} samples; {len(shown)} are shown, first those of which {text(report.baseline)} was most "
        "certain.</p>"
        f'<div class="pictures">{"".join(_picture(sample, pictures[sample.index]) for sample in shown)}</div>'
    )


def _picture(sample: ChangedPrediction, png: bytes) -> str:
    side = "lost" if sample.before == sample.label else "gained"
    answers = f"{sample.before} → {sample.after}"
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure class="{side}"><img src="{source}" alt="sample {sample.index}: {text(answers)}">'
        f"<figcaption><b>{text(answers)}</b><br><small>{side}; label: {text(sample.label)}</small></figcaption></figure>"
    )


def findings(source: FindingsTable, report: Report) -> str:
    """A table; one that a stage made has a plot of its change or, without one, of its first column."""
    findings = source.findings
    lines = [
        [text(line.name), *(measured(column, cell) for column, cell in zip(findings.columns, line.cells, strict=True))]
        for line in findings.lines
    ]
    headings = [findings.what, *(write.title(column) for column in findings.columns)]
    plot = _plot(findings, report) if source.name else ""
    return (
        f"<h2>{text(write.heading(source))}</h2><p>{text(findings.about)} Run by {findings.side}.</p>"
        f"{plot}{table(headings, lines)}"
    )


def _plot(findings: Findings, report: Report) -> str:
    column = next((number for number, name in enumerate(findings.columns) if name.endswith("_change")), 0)
    name, bars = findings.columns[column], []
    for line in findings.lines:
        figure = line.cells[column]
        if figure is not None:
            ends = (figure, figure, figure) if isinstance(figure, float) else (figure.low, figure.value, figure.high)
            bars.append(Bar(line.name, ends, write.metric(name, ends[1])))
    better = report.direction(changed_metric(name)[0]) or "higher"
    plot = plots.bars(bars, write.title(name), partial(write.metric, name), better) if bars else ""
    return f"<figure>{plot}</figure>" if plot else ""


def _last(report: Report) -> Row | None:
    return next((row for row in reversed(report.rows) if row.predictions), None)

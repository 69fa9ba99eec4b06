"""The report of a run: a pure function of its folder and of the store it names. Nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from compress_cli.errors import ArtifactError
from compress_cli.measurement.latency import NOTICEABLE, Latency
from compress_cli.measurement.measure import Timing
from compress_cli.report import folds, seeds, stored
from compress_cli.report.document import FindingsTable as FindingsTable
from compress_cli.report.document import Report as Report
from compress_cli.report.document import Row as Row
from compress_cli.report.document import once
from compress_cli.report.layers import quantised_layers
from compress_cli.report.stored import Stored
from compress_cli.statistics import scores
from compress_cli.statistics.findings import FINDINGS, Findings, Line
from compress_cli.statistics.folds import distilled_over_folds
from compress_cli.statistics.intervals import Estimate, judge_change
from compress_cli.statistics.repeats import Distilled
from compress_cli.statistics.scores import Better
from compress_cli.store.artifact import Artifact
from compress_cli.store.record import LIMITS, ModelRecord, Record, TableRecord


class _Primary(NamedTuple):
    """The run's primary metric; that of a model which does a part of the task only is another one."""

    name: str
    better: Better


def collect(directory: Path) -> Report:
    """The report of the run in `directory`; ArtifactError where a part of it is missing, damaged or changed."""
    record = Record.read(directory)
    store = directory / record.store
    measured, others = ([stored.read(store, row) for row in rows] for rows in (record.rows, record.variants))
    figures = [row.figures for row in measured if row.figures]
    timings = [row.timing for row in measured if row.timing]
    primary = record.primary or (figures[0].primary if figures else "")
    chosen_by = _Primary(primary, record.better)
    divided = folds.divided(measured, others, record.folds) if record.folds else [(measured, others)]
    by_fold = [_rows(models, record.baseline, chosen_by) for models, _ in divided]
    metrics = [row.figures.primary if row.figures else primary for row in measured[: len(by_fold[0])]]
    rows = folds.means(by_fold, record.better, metrics) if record.folds else by_fold[0]
    return Report(
        recipe=record.recipe,
        seed=record.seed,
        baseline=record.baseline,
        primary=primary,
        better=record.better,
        directions={name: better for document in figures for name, better in document.better.items()},
        split=figures[0].split if figures else "test",
        data=list(dict.fromkeys(remark for row in measured for remark in row.data)),
        samples=sum(_samples(models) for models, _ in divided),
        folds=record.folds,
        doubts=list(record.doubts),
        fitted=record.fitted,
        rows=rows,
        machine=timings[0].machine if timings else {},
        wall_time_s=record.wall_time_s,
        limits=_limits(directory, record),
        findings=[
            *([folds.by_fold(by_fold, primary)] if record.folds else []),
            *_by_task(record, once(rows)),
            *secondary(once(rows), (primary, *record.tasks)),
            *_findings(store, record, measured),
        ],
        spread=folds.spreads(by_fold, [row.figures.primary if row.figures else primary for row in measured])
        if record.folds
        else seeds.spreads(measured, others),
        distilled=_distilled(divided, record),
    )


def _limits(directory: Path, record: Record) -> list[str]:
    """What was found to limit the run's promises; nothing where that is about other artifacts than the run now has."""
    path = directory / LIMITS
    if not path.is_file():
        return []
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [str(line) for line in document["limits"]] if document["steps"] == record.steps else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: can't be read ({error}); remove it, and run the command again") from None


def _rows(measured: list[Stored], baseline: str, primary: _Primary) -> list[Row]:
    """The models of a run, or of one fold of it."""
    origins, timings = _origins(measured), [row.timing for row in measured if row.timing]
    compared_with = next((row for row in measured if row.record.name == baseline), None)
    rows = [_row(row, compared_with, origins.get(row.record.name), timings, primary) for row in measured]
    return [_with_speed_of_integers(row, {other.name: other for other in rows}, baseline) for row in rows]


def _with_speed_of_integers(row: Row, rows: dict[str, Row], baseline: str) -> Row:
    """With a remark where a file computes in integers and is no faster than the float model it was made from.

    Latencies of two comparisons are those of two moments, so the ratio is that of the speed-ups over the baseline."""
    before = rows.get(row.made_from or baseline)
    if row.floating is None or row.speedup is None or before is None or before.floating is not None or before is row:
        return row
    old = 1.0 if before.name == baseline else before.speedup.value if before.speedup else None
    if old is None or row.speedup.value > old * (1 + NOTICEABLE):
        return row
    slow = f"its integers are no faster than the float model '{before.name}' on this machine: {row.speedup.value / old:.2f}x"
    return row.model_copy(update={"note": "; ".join(filter(None, (row.note, slow)))})


def _samples(measured: list[Stored]) -> int:
    """On which models were measured."""
    return next((row.figures.samples for row in measured if row.figures), 0)


def _distilled(divided: list[tuple[list[Stored], list[Stored]]], record: Record) -> list[Distilled]:
    """What teachers were worth, over seeds or over folds; nothing of a student that a fold could not compare."""
    found = [{worth.row: worth for worth in seeds.distillations(*fold, record)} for fold in divided]
    if not record.folds:
        return list(found[0].values())
    everywhere = [row for row in found[0] if all(row in fold for fold in found)]
    return [distilled_over_folds([fold[row] for fold in found], record.better) for row in everywhere]


def _origins(measured: list[Stored]) -> dict[str, Stored]:
    """Row name -> the row it was made from."""
    by_key = {row.record.key: row for row in reversed(measured)}
    sources = {row.record.name: [by_key[key] for key in row.sources if key in by_key] for row in measured}
    return {name: rows[0] for name, rows in sources.items() if rows}


def _by_task(record: Record, rows: list[Row]) -> list[FindingsTable]:
    """How well each model does each task, where there are several."""
    if not record.tasks:
        return []
    about = "'-' where a model has no head for it. Changes in the table above are of the mean, between models that do all."
    return [_measured_table("Each task", about, rows, record.tasks)]


def secondary(rows: list[Row], shown: Sequence[str]) -> list[FindingsTable]:
    """The metrics that no other table shows, with their changes."""
    metrics = [name for name in dict.fromkeys(name for row in rows for name in row.metrics) if name not in shown]
    if not metrics:
        return []
    return [_measured_table("Other metrics", "With 95% intervals.", rows, metrics)]


def _measured_table(title: str, about: str, rows: list[Row], metrics: Sequence[str]) -> FindingsTable:
    """A table of metrics, each followed by its change where there are any."""
    changed = any(row.secondary_changes for row in rows)
    columns = [column for name in metrics for column in (name, *([f"{name}_change"] if changed else []))]
    lines = [
        Line(
            name=row.title,
            cells=[
                cell
                for name in metrics
                for cell in (row.metrics.get(name), *([row.secondary_changes.get(name)] if changed else []))
            ],
        )
        for row in rows
    ]
    if changed:
        about += " Changes are paired, against the baseline on the same samples."
    document = Findings(title=title, about=about, side="ONNX Runtime", what="model", columns=columns, lines=lines)
    return FindingsTable(name="", stage="measure", model="", findings=document)


def _findings(store: Path, record: Record, measured: list[Stored]) -> list[FindingsTable]:
    """Tables that are for reading; what other stages use, such as a teacher's outputs, is not."""
    names = {row.record.onnx: row.record.name for row in measured if row.record.onnx}
    names |= {row.record.key: row.record.name for row in measured}
    tables = []
    models: list[tuple[ModelRecord | TableRecord, Artifact]] = [(row.record, row.artifact) for row in measured]
    for table, source in [*models, *((table, stored.artifact_of(store, table.key)) for table in record.tables)]:
        if FINDINGS in source.manifest.files:
            source.verify()
            inputs = source.manifest.inputs
            keys = [table.key, *(source.key for role in ("start", *inputs) for source in inputs.get(role, []))]
            model = next((names[key] for key in keys if key in names), "")
            document = stored.document(source, FINDINGS, Findings)
            if record.folds:
                document = document.model_copy(update={"about": f"{document.about} Of the first fold."})
            tables.append(FindingsTable(name=table.name, stage=table.stage, model=model, findings=document))
    return tables


def _row(measured: Stored, baseline: Stored | None, origin: Stored | None, timings: list[Timing], primary: _Primary) -> Row:
    record, figures, timing = measured.record, measured.figures, measured.timing
    speedup = timing.speedup if timing else None
    notes = (*measured.artifact.manifest.facts.get("notes", ()), *measured.notes)
    row = Row(
        name=record.name,
        stage=record.stage,
        key=record.key,
        file_sha256=measured.file,
        cached=record.cached,
        wall_time_s=measured.artifact.manifest.wall_time_s,
        latency=timing.latency if timing else None,
        baseline_latency=speedup.baseline if speedup else None,
        speedup=speedup.speedup if speedup else None,
        verdict=speedup.verdict if speedup else None,
        floating=timing.floating if timing else None,
        layers=quantised_layers(measured.artifact.manifest.facts),
        reason=record.reason or (figures.reason if figures else ""),
        note="; ".join(notes),
        predictions=measured.predictions,
        made_from=origin.record.name if origin else "",
        gained=_change(origin, measured, primary.name) if origin else None,
    )
    if figures:
        row = row.model_copy(update={**dict(figures.contents), "metrics": figures.metrics})
    if baseline is None:
        return row
    if baseline is measured:
        alone = _typical([timing.speedup.baseline for timing in timings if timing.speedup])
        return row.model_copy(update={"latency": alone or row.latency})
    if figures and baseline.figures:
        ratio = baseline.figures.contents.size_bytes / figures.contents.size_bytes
        row = row.model_copy(update={"compression_ratio": ratio, **_changes(baseline, measured, primary)})
        if not row.made_from:
            row = row.model_copy(update={"gained": row.change})
    return row.model_copy(update={"note": "; ".join(filter(None, (*notes, _note(row))))})


def _typical(timings: list[Latency]) -> Latency | None:
    """The baseline was timed once for every other model: the timing in the middle."""
    ordered = sorted(timings, key=lambda latency: latency.p50_ms.value)
    return ordered[len(ordered) // 2] if ordered else None


def _changes(baseline: Stored, measured: Stored, primary: _Primary) -> dict[str, object]:
    """Of every metric, paired; nothing where they were not measured on the same samples."""
    if not baseline.compares_with(measured):
        return {}
    paired = scores.changes(baseline.scores, measured.scores)
    change = paired.pop(primary.name, None)
    if change is None:
        return {"secondary_changes": paired}
    p = scores.change_p(baseline.scores[primary.name], measured.scores[primary.name])
    verdict = judge_change(change, p, primary.better)
    return {"change": change, "change_p": p, "change_verdict": verdict, "secondary_changes": paired}


def _change(before: Stored, after: Stored, metric: str) -> Estimate | None:
    """Of a metric; None where they were not measured on the same samples, or one of them does not have it."""
    if not before.compares_with(after) or metric not in before.scores or metric not in after.scores:
        return None
    return scores.change(before.scores[metric], after.scores[metric])


def _note(row: Row) -> str:
    """A remark on size and speed together, unless the model is simply smaller and faster."""
    if row.compression_ratio is None or row.verdict is None:
        return ""
    smaller = row.compression_ratio > 1
    match row.verdict:
        case "faster":
            return "" if smaller else "faster, not smaller"
        case "slower":
            return "smaller, but slower" if smaller else "neither smaller nor faster"
        case "same":
            return "smaller, not faster" if smaller else "neither smaller nor faster"
    return f"{'smaller' if smaller else 'not smaller'}; whether it is faster is too noisy to say"

"""The report of a run: a pure function of its folder and of the store it names. Nothing is measured here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from compress_cli.measurement.latency import Latency
from compress_cli.measurement.measure import Timing
from compress_cli.report import seeds, stored
from compress_cli.report.document import FindingsTable as FindingsTable
from compress_cli.report.document import Report as Report
from compress_cli.report.document import Row as Row
from compress_cli.report.stored import Stored
from compress_cli.statistics.findings import FINDINGS, Findings, Line
from compress_cli.statistics.intervals import Estimate, judge_change, mcnemar, paired_difference
from compress_cli.store.record import Record


def collect(directory: Path) -> Report:
    """The report of the run in `directory`; ArtifactError where a part of it is missing, damaged or changed."""
    record = Record.read(directory)
    store = directory / record.store
    measured, others = ([stored.read(store, row) for row in rows] for rows in (record.rows, record.variants))
    baseline = next((each for each in measured if each.record.name == record.baseline), None)
    origins = _origins(measured)
    figures = [each.figures for each in measured if each.figures]
    timings = [each.timing for each in measured if each.timing]
    return Report(
        recipe=record.recipe,
        seed=record.seed,
        baseline=record.baseline,
        primary=record.primary or (figures[0].primary if figures else ""),
        better=record.better,
        split=figures[0].split if figures else "test",
        samples=figures[0].samples if figures else 0,
        rows=[_row(each, baseline, origins.get(each.record.name), timings, record.better) for each in measured],
        machine=timings[0].machine if timings else {},
        wall_time_s=record.wall_time_s,
        findings=[*_by_task(record, measured), *_findings(store, record, measured)],
        spread=seeds.spreads(measured, others),
        distilled=list(seeds.distillations(measured, others, record)),
    )


def _origins(measured: list[Stored]) -> dict[str, Stored]:
    """Row name -> the row it was made from."""
    by_key = {each.record.key: each for each in reversed(measured)}
    found = {each.record.name: [by_key[key] for key in each.sources if key in by_key] for each in measured}
    return {name: sources[0] for name, sources in found.items() if sources}


def _by_task(record: Record, measured: list[Stored]) -> list[FindingsTable]:
    """How well each model does each task, where there are several."""
    if not record.tasks:
        return []
    metrics = {each.record.name: each.figures.metrics if each.figures else {} for each in measured}
    lines = [Line(name=name, cells=[own.get(task) for task in record.tasks]) for name, own in metrics.items()]
    about = "'-' where a model has no head for it. Changes in the table above are of the mean, between models that do all."
    document = Findings(
        title="Each task", about=about, side="ONNX Runtime", what="model", columns=list(record.tasks), lines=lines
    )
    return [FindingsTable(name="", stage="measure", model="", findings=document)]


def _findings(store: Path, record: Record, measured: list[Stored]) -> list[FindingsTable]:
    """Tables that are for reading; what other stages use, such as a teacher's outputs, is not."""
    names = {each.record.onnx: each.record.name for each in measured if each.record.onnx}
    names |= {each.record.key: each.record.name for each in measured}
    found = []
    for each in record.tables:
        made = stored.artifact_of(store, each.key)
        if FINDINGS in made.manifest.files:
            made.verify()
            keys = [source.key for role in ("start", *made.manifest.inputs) for source in made.manifest.inputs.get(role, [])]
            about = next((names[key] for key in keys if key in names), "")
            document = stored.document(made, FINDINGS, Findings)
            found.append(FindingsTable(name=each.name, stage=each.stage, model=about, findings=document))
    return found


def _row(
    measured: Stored,
    baseline: Stored | None,
    origin: Stored | None,
    timings: list[Timing],
    better: Literal["higher", "lower"],
) -> Row:
    record, figures, timing = measured.record, measured.figures, measured.timing
    noted = "; ".join((*measured.made.manifest.facts.get("notes", ()), *measured.notes))
    row = Row(
        name=record.name,
        stage=record.stage,
        key=record.key,
        cached=record.cached,
        wall_time_s=measured.made.manifest.wall_time_s,
        latency=timing.latency if timing else None,
        speedup=timing.speedup.speedup if timing and timing.speedup else None,
        verdict=timing.speedup.verdict if timing and timing.speedup else None,
        reason=record.reason or (figures.reason if figures else ""),
        note=noted,
        predictions=measured.predictions,
        made_from=origin.record.name if origin else "",
    )
    if origin and figures and origin.figures:
        row = row.model_copy(update={"gained": _difference(origin, measured)})
    if figures:
        contents = figures.contents
        row = row.model_copy(update={**dict(contents), "metrics": figures.metrics})
    if baseline is None:
        return row
    if baseline is measured:
        alone = _typical([each.speedup.baseline for each in timings if each.speedup])
        return row.model_copy(update={"latency": alone or row.latency})
    if figures and baseline.figures:
        ratio = baseline.figures.contents.size_bytes / figures.contents.size_bytes
        row = row.model_copy(update={"compression_ratio": ratio, **_change(baseline, measured, better)})
        if not row.made_from:
            row = row.model_copy(update={"gained": row.change})
    return row.model_copy(update={"note": "; ".join(filter(None, (noted, _note(row))))})


def _typical(timings: list[Latency]) -> Latency | None:
    """The baseline was timed once for every other model: the timing in the middle."""
    ordered = sorted(timings, key=lambda each: each.p50_ms.value)
    return ordered[len(ordered) // 2] if ordered else None


def _change(baseline: Stored, measured: Stored, better: Literal["higher", "lower"]) -> dict[str, Estimate | float | str | None]:
    """Of the primary metric, sample by sample; nothing where they were not measured on the same samples."""
    change = _difference(baseline, measured)
    if change is None:
        return {}
    p = mcnemar(baseline.correct, measured.correct)
    return {"change": change, "change_p": p, "change_verdict": judge_change(change, p, better)}


def _difference(before: Stored, after: Stored) -> Estimate | None:
    """Paired; None where they were not measured on the same samples, or do not do the same tasks."""
    if not before.figures or not after.figures or before.figures.primary != after.figures.primary:
        return None
    if not len(after.correct) or not np.array_equal(before.index, after.index):
        return None
    return paired_difference(before.correct, after.correct)


def _note(row: Row) -> str:
    """What the two ratios say together, in words, where it is not simply smaller and faster."""
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

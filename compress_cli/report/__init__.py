"""The report of a run: a pure function of its folder and of the store it names. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli import arrays, artifact
from compress_cli.artifact import Artifact
from compress_cli.errors import ArtifactError
from compress_cli.gate import Judged
from compress_cli.intervals import Estimate, mcnemar, paired_difference
from compress_cli.latency import Latency, Verdict
from compress_cli.measure import COMPARISON, MEASUREMENT, PREDICTIONS, Figures, Timing
from compress_cli.record import Record
from compress_cli.record import Row as RecordRow
from compress_cli.repeats import Distilled, Spread, distilled, spread

Document = TypeVar("Document", bound=BaseModel)


class Row(BaseModel):
    """One model of a run. What was not measured is None, and `reason` says why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    stage: str
    key: str
    cached: bool
    wall_time_s: float
    """Of the stage when it ran."""
    parameters: int | None = None
    kinds: dict[str, int] = {}
    """Number type -> parameters stored in it."""
    macs: int | None = None
    macs_unknown: str = ""
    size_bytes: int | None = None
    compression_ratio: float | None = None
    """Bytes of the baseline / bytes of this: above 1 where this is smaller."""
    metrics: dict[str, Estimate] = {}
    change: Estimate | None = None
    """Of the primary metric against the baseline, on the same samples."""
    change_p: float | None = None
    """McNemar's p-value of "right equally often"; None for a metric that is not right-or-wrong."""
    latency: Latency | None = None
    speedup: Estimate | None = None
    """Latency of the baseline / latency of this, a 99% interval."""
    verdict: Verdict | None = None
    note: str = ""
    reason: str = ""


class Report(BaseModel):
    """All models of a run, measured with one instrument."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    seed: int
    baseline: str
    primary: str
    split: str
    samples: int
    rows: list[Row]
    machine: dict[str, str | int]
    """Where latency was measured; empty where it was not."""
    wall_time_s: float
    """Of the last run, in which stages that were up to date took none."""
    gates: list[Judged] = []
    spread: list[Spread] = []
    """Models that were made with several seeds; the rows are of the first."""
    distilled: list[Distilled] = []
    """Students that were trained without their teacher too."""


@dataclass(frozen=True)
class _Measured:
    """What the store holds about one row."""

    record: RecordRow
    made: Artifact
    figures: Figures | None
    timing: Timing | None
    index: np.ndarray  # (N,), empty where nothing was measured
    correct: np.ndarray  # (N,)


def collect(directory: Path) -> Report:
    """The report of the run in `directory`; ArtifactError where a part of it is missing, damaged or changed."""
    record = Record.read(directory)
    measured, others = ([_read(directory / record.store, row) for row in rows] for rows in (record.rows, record.others))
    baseline = next((each for each in measured if each.record.name == record.baseline), None)
    figures = [each.figures for each in measured if each.figures]
    timings = [each.timing for each in measured if each.timing]
    return Report(
        recipe=record.recipe,
        seed=record.seed,
        baseline=record.baseline,
        primary=figures[0].primary if figures else "",
        split=figures[0].split if figures else "test",
        samples=figures[0].samples if figures else 0,
        rows=[_row(each, baseline, timings) for each in measured],
        machine=timings[0].machine if timings else {},
        wall_time_s=record.wall_time_s,
        spread=_spreads(measured, others),
        distilled=list(_distilled(measured, others, record)),
    )


def _spreads(measured: list[_Measured], others: list[_Measured]) -> list[Spread]:
    """Of every model that was made with several seeds."""
    by_seed = {each.record.name: _by_seed(each, others) for each in measured}
    return [
        spread(name, {seed: float(each.correct.mean()) for seed, each in found.items()})
        for name, found in by_seed.items()
        if len(found) > 1
    ]


def _distilled(measured: list[_Measured], others: list[_Measured], record: Record) -> Iterator[Distilled]:
    """Of every student with a control; nothing where one of those it is held against could not be measured."""
    rows, sign = {each.record.name: each for each in measured}, 1 if record.better == "higher" else -1
    for name, row in rows.items():
        students, controls = _by_seed(row, others), _by_seed(row, others, "control")
        taught = [rows[each] for each in row.record.teachers if each in rows and rows[each].figures]
        if not students or students.keys() != controls.keys() or not taught:
            continue
        everyone = (*students.values(), *controls.values(), *taught)
        if not all(np.array_equal(each.index, everyone[0].index) for each in everyone):
            continue
        best = max(taught, key=lambda each: sign * float(each.correct.mean()))
        yield distilled(
            name,
            (best.record.name, best.correct),
            {seed: each.correct for seed, each in students.items()},
            {seed: each.correct for seed, each in controls.items()},
            record.better,
        )


def _by_seed(row: _Measured, others: list[_Measured], beside: str = "") -> dict[int, _Measured]:
    """What was measured of a row, or of what stands beside it, with each seed; empty where one could not be."""
    name = row.record.name
    found = [each for each in others if each.record.of == name and each.record.beside == beside]
    known = {each.record.seed: each for each in ([] if beside else [row]) + found}
    return known if all(each.figures for each in known.values()) else {}


def _row(measured: _Measured, baseline: _Measured | None, timings: list[Timing]) -> Row:
    record, figures, timing = measured.record, measured.figures, measured.timing
    row = Row(
        name=record.name,
        stage=record.stage,
        key=record.key,
        cached=record.cached,
        wall_time_s=measured.made.manifest.wall_time_s,
        latency=timing.speedup.model if timing else None,
        speedup=timing.speedup.speedup if timing else None,
        verdict=timing.speedup.verdict if timing else None,
        reason=record.reason,
    )
    if figures:
        contents = figures.contents
        row = row.model_copy(update={**dict(contents), "metrics": figures.metrics})
    if baseline is None:
        return row
    if baseline is measured:
        return row.model_copy(update={"latency": _typical([each.speedup.baseline for each in timings])})
    if figures and baseline.figures:
        ratio = baseline.figures.contents.size_bytes / figures.contents.size_bytes
        row = row.model_copy(update={"compression_ratio": ratio, **_change(baseline, measured)})
    return row.model_copy(update={"note": _note(row)})


def _typical(timings: list[Latency]) -> Latency | None:
    """The baseline was timed once for every other model: the timing in the middle."""
    ordered = sorted(timings, key=lambda each: each.p50_ms.value)
    return ordered[len(ordered) // 2] if ordered else None


def _change(baseline: _Measured, measured: _Measured) -> dict[str, Estimate | float | None]:
    """Of the primary metric, sample by sample; nothing where they were not measured on the same samples."""
    before, after = baseline.correct, measured.correct
    if not len(after) or not np.array_equal(baseline.index, measured.index):
        return {}
    return {"change": paired_difference(before, after), "change_p": mcnemar(before, after)}


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


def _read(store: Path, row: RecordRow) -> _Measured:
    measurement, comparison = _artifact(store, row.measurement), _artifact(store, row.comparison)
    made = _artifact(store, row.key)
    assert made is not None
    index, correct = _predictions(measurement.file(PREDICTIONS)) if measurement else (np.empty(0), np.empty(0))
    return _Measured(
        record=row,
        made=made,
        figures=_document(measurement, MEASUREMENT, Figures) if measurement else None,
        timing=_document(comparison, COMPARISON, Timing) if comparison else None,
        index=index,
        correct=correct,
    )


def _predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Sample ids and each sample's share of the primary metric."""
    found = arrays.read(path, ("index", "correct"))
    return found["index"], found["correct"]


def _artifact(store: Path, key: str | None) -> Artifact | None:
    if key is None:
        return None
    found = artifact.read(store / key)
    if found is None:
        raise ArtifactError(f"{store / key}: the store no longer holds what this run made; run the recipe again")
    if found.manifest.kind in ("Measurement", "Comparison"):  # what figures are taken from
        found.verify()
    return found


def _document(source: Artifact, name: str, kind: type[Document]) -> Document:
    path = source.file(name)
    try:
        return kind.model_validate_json(path.read_text())
    except ValidationError as error:
        raise ArtifactError(
            f"{path}: is not of this version ({error.errors()[0]['msg']}); delete {source.directory} and run the recipe again"
        ) from None

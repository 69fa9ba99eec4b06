"""Models that were made with several seeds, and students with their controls, out of what the store holds."""

from __future__ import annotations

from collections.abc import Iterator

from compress_cli.report.stored import Stored
from compress_cli.statistics.repeats import Distilled, Spread, distilled, spread
from compress_cli.statistics.scores import Score
from compress_cli.store.record import Record


def spreads(measured: list[Stored], others: list[Stored]) -> list[Spread]:
    """Of every model that was made with several seeds."""
    by_row = {row.record.name: _by_seed(row, others) for row in measured}
    return [
        spread(name, {seed: _score(run).value for seed, run in runs.items()}).model_copy(update={"metric": _primary(row)})
        for row, (name, runs) in zip(measured, by_row.items(), strict=True)
        if len(runs) > 1
    ]


def distillations(measured: list[Stored], others: list[Stored], record: Record) -> Iterator[Distilled]:
    """Of every student with a control; nothing where a student or a control could not be measured."""
    rows, sign = {row.record.name: row for row in measured}, 1 if record.better == "higher" else -1
    for name, row in rows.items():
        students, controls = _by_seed(row, others), _by_seed(row, others, "control")
        teachers = [rows[teacher] for teacher in row.record.teachers if teacher in rows and rows[teacher].score]
        if not students or students.keys() != controls.keys():
            continue
        everyone = (*students.values(), *controls.values(), *teachers)
        if not all(run.compares_with(everyone[0]) for run in everyone):
            continue
        able = [teacher for teacher in teachers if _primary(teacher) == _primary(row)]
        best = max(able, key=lambda teacher: sign * _score(teacher).value, default=None)
        worth = distilled(
            name,
            (best.record.name, _score(best)) if best else None,
            {seed: _score(run) for seed, run in students.items()},
            {seed: _score(run) for seed, run in controls.items()},
            record.better,
        )
        yield worth.model_copy(update={"metric": _primary(row)})


def _primary(row: Stored) -> str:
    return row.figures.primary if row.figures else ""


def _score(row: Stored) -> Score:
    assert row.score is not None
    return row.score


def _by_seed(row: Stored, others: list[Stored], variant: str = "") -> dict[int, Stored]:
    """The measurements of a row, or of its control, for each seed; empty where one is missing."""
    name = row.record.name
    repeated = [other for other in others if other.record.variant_of == name and other.record.variant == variant]
    runs = {run.record.seed: run for run in ([] if variant else [row]) + repeated}
    return runs if all(run.score for run in runs.values()) else {}

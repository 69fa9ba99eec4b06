"""Models that were made with several seeds, and students beside their controls, out of what the store holds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compress_cli.report.stored import Stored
from compress_cli.statistics.repeats import Distilled, Spread, distilled, spread
from compress_cli.store.record import Record


def spreads(measured: list[Stored], others: list[Stored]) -> list[Spread]:
    """Of every model that was made with several seeds."""
    by_seed = {each.record.name: _by_seed(each, others) for each in measured}
    return [
        spread(name, {seed: float(each.correct.mean()) for seed, each in found.items()})
        for name, found in by_seed.items()
        if len(found) > 1
    ]


def distillations(measured: list[Stored], others: list[Stored], record: Record) -> Iterator[Distilled]:
    """Of every student with a control; nothing where a student or a control could not be measured."""
    rows, sign = {each.record.name: each for each in measured}, 1 if record.better == "higher" else -1
    for name, row in rows.items():
        students, controls = _by_seed(row, others), _by_seed(row, others, "control")
        taught = [rows[each] for each in row.record.teachers if each in rows and len(rows[each].correct)]
        if not students or students.keys() != controls.keys():
            continue
        everyone = (*students.values(), *controls.values(), *taught)
        if not all(np.array_equal(each.index, everyone[0].index) for each in everyone):
            continue
        able = [each for each in taught if _primary(each) == _primary(row)]
        best = max(able, key=lambda each: sign * float(each.correct.mean()), default=None)
        yield distilled(
            name,
            (best.record.name, best.correct) if best else None,
            {seed: each.correct for seed, each in students.items()},
            {seed: each.correct for seed, each in controls.items()},
            record.better,
        )


def _primary(row: Stored) -> str:
    return row.figures.primary if row.figures else ""


def _by_seed(row: Stored, others: list[Stored], beside: str = "") -> dict[int, Stored]:
    """What was measured of a row, or of what stands beside it, with each seed; empty where one could not be."""
    name = row.record.name
    found = [each for each in others if each.record.variant_of == name and each.record.variant == beside]
    known = {each.record.seed: each for each in ([] if beside else [row]) + found}
    return known if all(len(each.correct) for each in known.values()) else {}

"""What repeating a stage with other seeds tells, and what a teacher was worth beside an undistilled control."""

from __future__ import annotations

import math
import statistics
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from compress_cli.statistics.intervals import Estimate, bootstrap, paired_difference

T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12)
"""The 97.5% points of Student's t distribution with 1, 2, ... degrees of freedom; beyond them the last is a safe one."""

Worth = Literal["helped", "hurt", "no difference shown"]


class Spread(BaseModel):
    """The primary metric of one model over the seeds it was made with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    seeds: list[int]
    values: list[float]
    mean: float
    deviation: float
    """Sample standard deviation over the seeds."""


class Distilled(BaseModel):
    """A distilled student against the same student, schedule and seeds without the teacher."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    teacher: str
    """The best, where there are several; empty where none could be measured on all that the student does: a table
    of stored outputs, the teacher of one task of several."""
    headroom: Estimate | None
    """Mean of teacher - control; None where there is no such teacher."""
    seeds: list[int]
    student: list[float]
    """The primary metric, seed by seed."""
    control: list[float]
    difference: Estimate
    """Mean of student - control; its interval knows the samples, and the seeds where there are several."""
    gap_closed: float | None
    """(student - control) / (teacher - control) of the means; None where the teacher is not shown to be better."""
    gaps_closed: list[float] | None
    """The same, seed by seed."""
    verdict: Worth


def spread(row: str, values: dict[int, float]) -> Spread:
    """Of a metric by seed; two seeds at least."""
    found = list(values.values())
    return Spread(
        row=row,
        seeds=list(values),
        values=found,
        mean=statistics.fmean(found),
        deviation=statistics.stdev(found),
    )


def distilled(
    row: str,
    teacher: tuple[str, np.ndarray] | None,
    student: dict[int, np.ndarray],
    control: dict[int, np.ndarray],
    better: Literal["higher", "lower"],
) -> Distilled:
    """What the teacher was worth, from each sample's share of the primary metric (N,), the same samples throughout.

    `student` and `control` are by seed, with the same seeds; the teacher is None where there is none that could be measured
    on all that the student does.
    """
    difference = _difference(list(student.values()), list(control.values()))
    verdict = _verdict(difference, better)
    name, taught = teacher or ("", None)
    headroom = None if taught is None else _difference([taught for _ in control], list(control.values()))
    gap, gaps = None, None
    if taught is not None and headroom is not None and _verdict(headroom, better) == "helped":
        gap = difference.value / headroom.value
        gaps = _gaps(list(student.values()), taught, list(control.values()))
    return Distilled(
        row=row,
        teacher=name,
        headroom=headroom,
        seeds=list(student),
        student=[float(each.mean()) for each in student.values()],
        control=[float(each.mean()) for each in control.values()],
        difference=difference,
        gap_closed=gap,
        gaps_closed=gaps,
        verdict=verdict,
    )


def _verdict(difference: Estimate, better: Literal["higher", "lower"]) -> Worth:
    """What a difference to the control says, where its interval leaves zero out."""
    if difference.low <= 0 <= difference.high:
        return "no difference shown"
    return "helped" if (difference.low > 0) == (better == "higher") else "hurt"


def _gaps(student: list[np.ndarray], taught: np.ndarray, control: list[np.ndarray]) -> list[float] | None:
    """None where the teacher is no better than a control to the last sample: a ratio to nothing."""
    tops = [float((taught - each).mean()) for each in control]
    gains = [float((own - each).mean()) for own, each in zip(student, control, strict=True)]
    return [gain / top for gain, top in zip(gains, tops, strict=True)] if all(tops) else None


def _difference(after: list[np.ndarray], before: list[np.ndarray]) -> Estimate:
    """Mean of after - before over runs and samples, at 95%.

    Samples and seeds are two sources of chance: the interval of the one, from the paired samples, and Student's of the
    other are added as independent errors are, by their squares.
    """
    if len(after) == 1:
        return paired_difference(before[0], after[0])
    runs = np.stack(after) - np.stack(before)  # (seeds, N)
    samples = bootstrap(runs.mean(axis=0))
    count = len(runs)
    seeds = T975[min(count - 1, len(T975)) - 1] * statistics.stdev(runs.mean(axis=1).tolist()) / math.sqrt(count)
    low, high = (math.hypot(end - samples.value, seeds) for end in (samples.low, samples.high))
    return Estimate(value=samples.value, low=samples.value - low, high=samples.value + high, samples=samples.samples)

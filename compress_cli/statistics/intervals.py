"""Estimates with intervals, at 95% unless another confidence is given."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

Z95 = 1.959963984540054  # the 97.5% point of the normal distribution

Change = Literal["better", "same", "worse"]
"""Of a metric against another model's on the same samples; "same" means that no difference is certain."""


class Estimate(BaseModel):
    """A figure and the interval that holds its true value with 95% confidence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float
    high: float
    samples: int


def wilson(successes: int, samples: int, z: float = Z95) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927, JASA 22:209); right also near 0 and 1."""
    if samples == 0:
        raise ValueError("a proportion of no samples has no value")
    p = successes / samples
    centre = (p + z**2 / (2 * samples)) / (1 + z**2 / samples)
    half = z / (1 + z**2 / samples) * math.sqrt(p * (1 - p) / samples + z**2 / (4 * samples**2))
    return Estimate(value=p, low=max(0.0, min(p, centre - half)), high=min(1.0, max(p, centre + half)), samples=samples)


def bootstrap(
    values: np.ndarray,
    statistic: Literal["mean", "median"] = "mean",
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """The mean or median of independent values (N,) with a percentile bootstrap interval (Efron 1979, Ann. Stat. 7:1)."""
    if len(values) == 0:
        raise ValueError("a statistic of no samples has no value")
    of = np.median if statistic == "median" else np.mean
    generator = np.random.default_rng(seed)
    at_once = max(1, 1_000_000 // len(values))  # draws in memory together
    drawn = np.concatenate(
        [
            of(values[generator.integers(0, len(values), (min(at_once, draws - start), len(values)))], axis=1)
            for start in range(0, draws, at_once)
        ]
    )
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value=float(of(values)), low=float(low), high=float(high), samples=len(values))


def median(values: np.ndarray, confidence: float) -> Estimate:
    """The median of independent values (N,) with the interval between two of the sorted values.

    Whatever their distribution, each value lies below its median with probability 1/2 (the sign test's interval), so it
    holds at any N; where N is too small for the confidence, it is the whole range.
    """
    ordered, count = np.sort(values), len(values)
    if count == 0:
        raise ValueError("a statistic of no samples has no value")
    # In whole numbers, since 2**-count is 0 for many values: ways, of 2**count, to have cut + 1 values below the median,
    # and to have at most so many.
    most = (1 << count) * round((1 - confidence) / 2 * 10**9) // 10**9
    cut, ways, outside = 0, count, 1 + count
    while outside <= most:
        cut += 1
        ways = ways * (count - cut) // (cut + 1)
        outside += ways
    return Estimate(
        value=float(np.median(ordered)), low=float(ordered[cut]), high=float(ordered[count - 1 - cut]), samples=count
    )


def paired_difference(before: np.ndarray, after: np.ndarray, z: float = Z95) -> Estimate:
    """Mean of after - before over the same samples (N,), with an interval that knows they are the same samples.

    For right-or-wrong values Newcombe's hybrid score interval (Newcombe 1998, Stat. Med. 17:2635, method 10), which holds
    also where no sample or every sample changed; otherwise a bootstrap, always at 95%.
    """
    if len(before) != len(after):
        raise ValueError("paired values have to be of the same samples")
    if not right_or_wrong(before) or not right_or_wrong(after):
        return bootstrap(after - before)
    samples = len(before)
    both, first, second, neither = _agreement(before, after)
    earlier, later = wilson(both + first, samples, z), wilson(both + second, samples, z)
    products = (both + first) * (second + neither) * (both + second) * (first + neither)
    cross = float(both * neither - first * second)
    if cross > 0:
        cross = max(cross - samples / 2, 0)  # the paper's continuity correction of the correlation
    correlation = cross / math.sqrt(products) if products else 0.0
    value = later.value - earlier.value

    def distance(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a**2 - 2 * correlation * a * b + b**2))

    low = value - distance(later.value - later.low, earlier.high - earlier.value)
    high = value + distance(later.high - later.value, earlier.value - earlier.low)
    return Estimate(value=value, low=max(-1.0, low), high=min(1.0, high), samples=samples)


def judge_change(change: Estimate, p: float | None, better: Literal["higher", "lower"] = "higher") -> Change:
    """Whether a paired difference is certain at 95%: by McNemar's test where there is one, otherwise by the interval."""
    sure = p < 0.05 if p is not None else change.low > 0 or change.high < 0
    if not sure or change.value == 0:
        return "same"
    return "better" if (change.value > 0) == (better == "higher") else "worse"


def right_or_wrong(values: np.ndarray) -> bool:
    """Whether values are nothing but 0 and 1."""
    return bool(np.isin(values, (0, 1)).all())


def mcnemar(before: np.ndarray, after: np.ndarray) -> float | None:
    """Two-sided p-value of "both are right equally often" over the same samples (N,); None for values other than 0 and 1.

    Exact: samples on which they differ fall to either side like a coin (McNemar 1947, Psychometrika 12:153).
    """
    if not right_or_wrong(before) or not right_or_wrong(after):
        return None
    _, first, second, _ = _agreement(before, after)
    differing, fewer = first + second, min(first, second)
    ways = tail = 1
    for k in range(fewer):
        ways = ways * (differing - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << differing))


def _agreement(before: np.ndarray, after: np.ndarray) -> tuple[int, int, int, int]:
    """Samples that are right in both, only before, only after, in neither."""
    b, a = before.astype(bool), after.astype(bool)
    return int((b & a).sum()), int((b & ~a).sum()), int((~b & a).sum()), int((~b & ~a).sum())

"""How sure a figure is: estimates with intervals, at 95% unless told."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

Z95 = 1.959963984540054  # the 97.5% point of the normal distribution


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


def bootstrap(values: np.ndarray, statistic: Literal["mean", "median"] = "mean", draws: int = 2000, seed: int = 0) -> Estimate:
    """The mean or median of per-sample values (N,) with a percentile bootstrap interval (Efron 1979)."""
    if len(values) == 0:
        raise ValueError("a statistic of no samples has no value")
    of: Callable[[np.ndarray], np.floating] = np.median if statistic == "median" else np.mean
    generator = np.random.default_rng(seed)
    drawn = np.array([of(values[generator.integers(0, len(values), len(values))]) for _ in range(draws)])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value=float(of(values)), low=float(low), high=float(high), samples=len(values))

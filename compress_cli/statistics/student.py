"""Student's t: means of few values with their interval."""

from __future__ import annotations

import math

import numpy as np

from compress_cli.statistics.intervals import Estimate

TRIMMED = 5  # one in so many at either end
FEWEST_TO_TRIM = 20


def central(values: np.ndarray) -> np.ndarray:
    """Positions of the values without the smallest and the largest fifth; of all values where there are fewer than 20."""
    cut = len(values) // TRIMMED if len(values) >= FEWEST_TO_TRIM else 0
    return np.sort(np.argsort(values, kind="stable")[cut : len(values) - cut])


def geometric_mean(values: np.ndarray, confidence: float, trim: bool = True) -> Estimate:
    """The geometric mean of the central ones of independent positive values (N,), N > 1, with Student's interval of their
    logarithms, for trimmed means by the winsorised deviation (Yuen 1974, Biometrika 61:165). It holds for few
    values, is wider where some of them stand out, and few that lie far off do not move it.
    """
    logarithms, count = np.log(values), len(values)
    if count < 2:
        raise ValueError("an interval needs at least two values")
    inner = logarithms[central(values)] if trim else logarithms
    middle, kept = float(inner.mean()), len(inner)
    winsorised = np.clip(logarithms, inner.min(), inner.max())
    error = math.sqrt(float(((winsorised - winsorised.mean()) ** 2).sum()) / (kept * (kept - 1)))
    half = quantile((1 + confidence) / 2, kept - 1) * error
    return Estimate(value=math.exp(middle), low=math.exp(middle - half), high=math.exp(middle + half), samples=count)


def quantile(probability: float, degrees: int) -> float:
    """The value that Student's t stays below with this probability, 0.5 to 1, found by bisection."""
    low, high = 0.0, 1.0
    while _below(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _below(middle, degrees) < probability else (low, middle)
    return high


def _below(t: float, degrees: int) -> float:
    """The distribution function at t >= 0, by its finite series for whole degrees of freedom (Abramowitz & Stegun 26.7.3)."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    term, series = (1.0, 1.0) if degrees % 2 == 0 else (cosine, cosine)
    for k in range(2 + degrees % 2, degrees, 2):
        term *= cosine**2 * (k - 1) / k
        series += term
    if degrees % 2 == 0:
        return 0.5 + sine * series / 2
    return 0.5 + (angle + (sine * series if degrees > 1 else 0.0)) / math.pi

"""How weights and activations lie on their grids, as figures that a report draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compress_cli.quantization.grids import Coded
from compress_cli.quantization.histogram import Histogram

BINS = 48
WORST = 4  # layers that are shown
DIGITS = 5


def worst(layers: Sequence[dict[str, Any]], count: int = WORST) -> list[str]:
    """The layers whose weights were rounded with the least signal over noise, the worst first."""
    known = [entry for entry in layers if entry.get("weight_sqnr_db") is not None]
    return [entry["layer"] for entry in sorted(known, key=lambda entry: entry["weight_sqnr_db"])[:count]]


def of_weights(layer: str, weights: np.ndarray, coded: Coded) -> dict[str, Any]:
    """Shares of the weights in equal bins, and the values that they may take: of several scales those of the largest."""
    rounded = coded.values()
    low, high = (float(end) for end in (min(weights.min(), rounded.min()), max(weights.max(), rounded.max())))
    counts, edges = np.histogram(weights, BINS, (low, high if high > low else low + 1))
    step = float(np.max(np.abs(coded.scale)))
    values = coded.table * step if coded.table is not None else _steps(coded) * step
    return _described(layer, "weights", counts / max(weights.size, 1), edges, values, len({*coded.scale.reshape(-1).tolist()}))


def of_activations(
    layer: str, histogram: Histogram, limits: tuple[float, float], bits: int, factor: float = 1.0
) -> dict[str, Any]:
    """Likewise of what goes into a layer, which is `factor` times what was counted."""
    counts, edges = histogram.bins()
    low, high = min(edges[0], limits[0]), max(edges[-1], limits[1])
    centres = (edges[1:] + edges[:-1]) / 2
    counts, edges = np.histogram(centres, BINS, (low, high if high > low else low + 1), weights=counts)
    values = np.linspace(*limits, 2**bits)
    return _described(layer, "activations", counts / max(histogram.total, 1), edges * factor, values * factor, 1)


def _steps(coded: Coded) -> np.ndarray:
    largest = 2 ** (coded.bits - 1) - 1
    return np.arange(-largest, largest + 1)


def _described(layer: str, kind: str, shares: np.ndarray, edges: np.ndarray, values: np.ndarray, scales: int) -> dict[str, Any]:
    """Grids of many equal steps are told by their ends."""
    grid = sorted({*values.tolist()})
    equal = len(grid) > 2 and np.allclose(np.diff(grid), (grid[-1] - grid[0]) / (len(grid) - 1), rtol=1e-3)
    told = {"low": grid[0], "high": grid[-1], "count": len(grid)} if equal else {"values": _short(grid)}
    return {
        "layer": layer, "kind": kind, "scales": scales, "grid": told,
        "edges": _short([edges[0], edges[-1]]), "shares": _short(shares.tolist()),
    }  # fmt: skip


def _short(numbers: Sequence[float]) -> list[float]:
    return [float(f"{number:.{DIGITS}g}") for number in numbers]

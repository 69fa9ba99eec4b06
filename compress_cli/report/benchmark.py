"""A report's figures for benchmark actions of CI servers, which keep them over time and warn when one gets worse.

The format is the custom one of github-action-benchmark: a list of `{name, unit, value, range}`. One list holds figures of one
direction, since such an action knows only "smaller is better" or "bigger is better" for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from compress_cli.report.document import Report, Row
from compress_cli.statistics.gate import sort_of
from compress_cli.statistics.intervals import Estimate

Direction = Literal["smaller", "bigger"]


class _Figure(NamedTuple):
    name: str
    unit: str
    value: float | None
    low: float | None = None
    high: float | None = None


def entries(report: Report, better: Direction) -> list[dict[str, str | float]]:
    """The figures of every model of which smaller (or bigger) is better, shares in percent, with their intervals."""
    found: list[dict[str, str | float]] = []
    for row in report.files:
        for figure in _figures(report, row, better):
            if figure.value is not None:
                name = f"{report.recipe}/{row.name}: {figure.name}"
                span = {} if figure.low is None else {"range": f"[{figure.low:.6g}, {figure.high:.6g}]"}
                found.append({"name": name, "unit": figure.unit, "value": figure.value, **span})
    return found


def _figures(report: Report, row: Row, better: Direction) -> Iterator[_Figure]:
    if better == "smaller":
        yield _Figure("size", "bytes", row.size_bytes)
        yield _Figure("multiply-accumulates", "MACs", row.macs)
        if row.latency:
            yield _estimated("latency", "ms", row.latency.p50_ms)
    else:
        yield _Figure("compression ratio", "x", row.compression_ratio)
        if row.speedup:
            yield _estimated("speed-up", "x", row.speedup)
    wanted = "lower" if better == "smaller" else "higher"
    for name, estimate in row.metrics.items():
        if report.direction(name) == wanted:
            share = sort_of(name) == "share"
            yield _estimated(name, "%" if share else "", estimate, 100 if share else 1)


def _estimated(name: str, unit: str, estimate: Estimate, scale: float = 1) -> _Figure:
    return _Figure(name, unit, scale * estimate.value, scale * estimate.low, scale * estimate.high)

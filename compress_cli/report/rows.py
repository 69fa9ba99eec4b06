"""The rows of runs as one table, for spreadsheets and papers."""

from __future__ import annotations

from collections.abc import Sequence

from compress_cli.report import Report, Row
from compress_cli.report.table import Cell, Table

COUNTED = ("parameters", "nonzero", "macs", "size_bytes", "gzip_bytes", "compression_ratio")


def table(runs: Sequence[tuple[str, Report]]) -> Table:
    """Every model of every run, with the ends of the intervals of what is not counted; latency only of its own machine."""
    metrics = list(dict.fromkeys(name for _, report in runs for row in report.rows for name in row.metrics))
    headings = ["run", "model", "stage", "seed", *COUNTED]
    headings += [f"{name}{end}" for name in metrics for end in ("", "_low", "_high")]
    headings += ["change", "change_low", "change_high", "agreement", "latency_ms", "speedup", "speedup_low", "speedup_high"]
    return Table(headings, [_cells(run, report, row, metrics) for run, report in runs for row in report.rows])


def _cells(run: str, report: Report, row: Row, metrics: list[str]) -> list[Cell]:
    cells: list[Cell] = [run, row.name, row.stage, report.seed, *(getattr(row, name) for name in COUNTED)]
    for estimate in (*(row.metrics.get(name) for name in metrics), row.change):
        cells += [estimate.value, estimate.low, estimate.high] if estimate else [None, None, None]
    cells += [row.predictions.agreement.value if row.predictions else None, row.latency.p50_ms.value if row.latency else None]
    return [*cells, *([row.speedup.value, row.speedup.low, row.speedup.high] if row.speedup else [None, None, None])]

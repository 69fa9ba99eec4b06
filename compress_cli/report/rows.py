"""The models of runs as one table, for spreadsheets and papers."""

from __future__ import annotations

from collections.abc import Sequence

from compress_cli.report import Report, Row
from compress_cli.report.table import Cell, Table
from compress_cli.statistics.intervals import Estimate

COUNTED = ("parameters", "nonzero", "macs", "size_bytes", "gzip_bytes", "compression_ratio")


def table(runs: Sequence[tuple[str, Report]]) -> Table:
    """Every file of every run, with the ends of the intervals of what is not counted; latency only of its own machine.

    `change` is that of the primary metric; those of the other metrics are called after them.
    """
    metrics = list(dict.fromkeys(name for _, report in runs for row in report.rows for name in row.metrics))
    secondary = list(dict.fromkeys(name for _, report in runs for row in report.rows for name in row.secondary_changes))
    headings = ["run", "model", "stage", "seed", *COUNTED]
    headings += _with_ends(*metrics, "change", *(f"{name}_change" for name in secondary))
    headings += ["agreement", "latency_ms", "baseline_latency_ms", *_with_ends("speedup")]
    return Table(headings, [_cells(run, report, row, metrics, secondary) for run, report in runs for row in report.files])


def _with_ends(*names: str) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def _cells(run: str, report: Report, row: Row, metrics: list[str], secondary: list[str]) -> list[Cell]:
    cells: list[Cell] = [run, row.title, row.stage, report.seed, *(getattr(row, name) for name in COUNTED)]
    changes = (row.change, *(row.secondary_changes.get(name) for name in secondary))
    for estimate in (*(row.metrics.get(name) for name in metrics), *changes):
        cells += _ends(estimate)
    cells.append(row.predictions.agreement.value if row.predictions else None)
    cells += [latency.p50_ms.value if latency else None for latency in (row.latency, row.baseline_latency)]
    return [*cells, *_ends(row.speedup)]


def _ends(estimate: Estimate | None) -> list[Cell]:
    return [estimate.value, estimate.low, estimate.high] if estimate else [None, None, None]

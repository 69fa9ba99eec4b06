"""The document of a report: rows, what was found on request, gates."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from compress_cli.measurement.latency import Latency, Verdict
from compress_cli.onnx_graph.contents import Constant
from compress_cli.statistics.findings import Findings
from compress_cli.statistics.gate import Judged
from compress_cli.statistics.intervals import Change, Estimate
from compress_cli.statistics.predictions import PredictionComparison
from compress_cli.statistics.repeats import Distilled, Spread


class Row(BaseModel):
    """One model of a run. What was not measured is None, and `reason` says why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    stage: str
    key: str
    cached: bool
    wall_time_s: float
    """Of the stage when it ran."""
    parameters: int | None = None
    kinds: dict[str, int] = {}
    """Number type -> parameters stored in it."""
    nonzero: int | None = None
    """Parameters that are not 0; None where they can't be read one by one."""
    bytes_by_kind: dict[str, int] = {}
    """Number type -> bytes of all constants in the file."""
    gzip_bytes: int | None = None
    zstd_bytes: int | None = None
    compressed_unknown: str = ""
    peak_activation_bytes: int | None = None
    """Estimate of what the values between operators take at most at once, for one sample."""
    peak_activation_unknown: str = ""
    largest: list[Constant] = []
    """The largest constants of the file."""
    macs: int | None = None
    macs_unknown: str = ""
    size_bytes: int | None = None
    compression_ratio: float | None = None
    """Bytes of the baseline / bytes of this: above 1 where this is smaller."""
    metrics: dict[str, Estimate] = {}
    change: Estimate | None = None
    """Of the primary metric against the baseline, on the same samples."""
    change_p: float | None = None
    """McNemar's p-value of "right equally often"; None for a metric that is not right-or-wrong."""
    change_verdict: Change | None = None
    """What that allows to say at 95%: by McNemar's test, or by the interval."""
    made_from: str = ""
    """The model that its stage started from, or was taught by; empty where it started afresh."""
    gained: Estimate | None = None
    """Of the primary metric against `made_from` (the baseline where that is empty), on the same samples."""
    predictions: PredictionComparison | None = None
    """Its answers beside the baseline's; None for a task that names no classes."""
    latency: Latency | None = None
    speedup: Estimate | None = None
    """Latency of the baseline / latency of this, a 99% interval."""
    verdict: Verdict | None = None
    note: str = ""
    reason: str = ""


class FindingsTable(BaseModel):
    """What a stage found out about a model on request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    stage: str
    model: str
    """The row it is about; empty where it is about something else."""
    findings: Findings


class Report(BaseModel):
    """All models of a run, measured with one instrument."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    seed: int
    baseline: str
    primary: str
    better: Literal["higher", "lower"] = "higher"
    """Which way the primary metric is better."""
    split: str
    samples: int
    rows: list[Row]
    machine: dict[str, str | int]
    """Where latency was measured; empty where it was not."""
    wall_time_s: float
    """Of the last run, in which stages that were up to date took none."""
    gates: list[Judged] = []
    findings: list[FindingsTable] = []
    spread: list[Spread] = []
    """Models that were made with several seeds; the rows are of the first."""
    distilled: list[Distilled] = []
    """Students that were trained without their teacher too."""


def chain(report: Report) -> list[Row]:
    """The models between the baseline and the last one, both included, each made from the one before it.

    Where the last one does not come from the baseline, its first ancestor stands beside the baseline.
    """
    rows = {row.name: row for row in report.rows}
    if report.baseline not in rows:
        return []
    found = [report.rows[-1]]
    while found[0].name != report.baseline and found[0].made_from:
        found.insert(0, rows[found[0].made_from])
    return found if found[0].name == report.baseline else [rows[report.baseline], *found]

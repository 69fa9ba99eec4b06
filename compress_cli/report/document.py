"""The document of a report: rows, tables of other stages, gates."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from compress_cli.measurement.latency import Latency, Verdict
from compress_cli.measurement.profile import FloatPart
from compress_cli.onnx_graph.contents import Constant
from compress_cli.report.layers import QuantisedLayer
from compress_cli.statistics.findings import Findings
from compress_cli.statistics.gate import GateResult
from compress_cli.statistics.intervals import Change, Estimate
from compress_cli.statistics.predictions import PredictionComparison
from compress_cli.statistics.repeats import Distilled, Spread
from compress_cli.statistics.scores import Better


class Row(BaseModel):
    """One model of a run. What was not measured is None, and `reason` says why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    same_file: list[str] = []
    """Earlier stages that made the very same file, in a row that is shown for all of them."""
    stage: str
    key: str
    file_sha256: str = ""
    """Of the ONNX file that was measured; empty where there is none."""
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
    secondary_changes: dict[str, Estimate] = {}
    """Of the other metrics, likewise."""
    change_p: float | None = None
    """McNemar's p-value of "right equally often"; None for a metric that is not right-or-wrong."""
    change_verdict: Change | None = None
    """The verdict at 95%: by McNemar's test, or by the interval."""
    made_from: str = ""
    """The model that its stage started from, or was taught by; empty where it started afresh."""
    gained: Estimate | None = None
    """Of the primary metric against `made_from` (the baseline where that is empty), on the same samples."""
    predictions: PredictionComparison | None = None
    """Its answers compared with the baseline's; None for a task that names no classes."""
    latency: Latency | None = None
    """Of this model and, where there is a speed-up, of the baseline in the same comparison."""
    baseline_latency: Latency | None = None
    speedup: Estimate | None = None
    """Latency of the baseline / latency of this, a 99% interval."""
    verdict: Verdict | None = None
    floating: list[FloatPart] | None = None
    """What computes in float in a file with integers, with its share of the time and bytes; None of a file without."""
    layers: list[QuantisedLayer] = []
    """What rounding did to each layer; empty where nothing was quantised."""
    note: str = ""
    reason: str = ""

    @property
    def title(self) -> str:
        """The names of all stages that made the file: `int8 = onnx`."""
        return " = ".join([*self.same_file, self.name])


class FindingsTable(BaseModel):
    """A table that a stage made about a model."""

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
    better: Better = "higher"
    """Which way the primary metric is better."""
    directions: dict[str, Better] = {}
    """Metric name -> which way it is better."""
    split: str
    samples: int
    data: list[str] = []
    """What a reader has to know of them, such as that they are synthetic."""
    folds: int = 0
    """Parts of a cross-validation, over which the rows' figures are means; 0 where there was none."""
    doubts: list[str] = []
    """What is wrong with the data, such as test samples that stand in train too."""
    fitted: str = ""
    """What was fitted to the time that the recipe asks for."""
    rows: list[Row]
    machine: dict[str, str | int]
    """Where latency was measured; empty where it was not."""
    wall_time_s: float
    """Of the last run, in which stages that were up to date took none."""
    gates: list[GateResult] = []
    limits: list[str] = []
    """Why promises do not hold, where a command looked for it."""
    findings: list[FindingsTable] = []
    spread: list[Spread] = []
    """Models that were made with several seeds; the rows are of the first."""
    distilled: list[Distilled] = []
    """Students that were trained without their teacher too."""

    @property
    def files(self) -> list[Row]:
        """The rows, each file once."""
        return once(self.rows)

    def direction(self, metric: str) -> Better | None:
        """Whether higher or lower values of a metric are better; None for a figure that is no metric of this run."""
        return self.better if metric == self.primary else self.directions.get(metric)


def once(rows: list[Row]) -> list[Row]:
    """One row for each file: several stages that made the same one, such as a quantisation and its export, share a row."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.file_sha256 or row.name, []).append(row)
    return [group[0] if len(group) == 1 else _joined(group) for group in groups.values()]


def _joined(rows: list[Row]) -> Row:
    """One row of several that are the same file: the last, with the origin of the first and the time of all."""
    first, last = rows[0], rows[-1]
    return last.model_copy(
        update={
            "same_file": [row.name for row in rows[:-1]],
            "stage": ", ".join(dict.fromkeys(row.stage for row in rows)),
            "cached": all(row.cached for row in rows),
            "wall_time_s": sum(row.wall_time_s for row in rows),
            "layers": next((row.layers for row in rows if row.layers), []),
            "made_from": first.made_from,
            "gained": first.gained,
            "note": "; ".join(dict.fromkeys(note for row in rows for note in row.note.split("; ") if note)),
        }
    )


def chain(report: Report) -> list[Row]:
    """The models between the baseline and the last one, both included, each made from the one before it.

    Where the last one does not come from the baseline, the baseline comes before its first ancestor.
    """
    models = {name: row for row in report.files for name in (row.name, *row.same_file)}
    if report.baseline not in models:
        return []
    baseline, chained = models[report.baseline], [models[report.rows[-1].name]]
    while chained[0] is not baseline and chained[0].made_from:
        chained.insert(0, models[chained[0].made_from])
    return chained if chained[0] is baseline else [baseline, *chained]

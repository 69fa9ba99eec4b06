"""Evaluation: one ONNX file measured, alone or against an older one, on its own data, on other data or on none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from compress_cli.data import preprocess
from compress_cli.data.datasets import Dataset, Split, SplitName
from compress_cli.data.tasks import Task
from compress_cli.document import setting
from compress_cli.errors import ArtifactError
from compress_cli.measurement import clients, example, input_range, latency, measure, named_data, sessions
from compress_cli.measurement import profile as profiler
from compress_cli.measurement.clients import Load
from compress_cli.measurement.latency import Latency, Speedup
from compress_cli.measurement.measure import Result
from compress_cli.measurement.profile import Profile
from compress_cli.measurement.sessions import Feeds, Options, Session
from compress_cli.measurement.timing import Caches
from compress_cli.onnx_graph import contents as graph_contents
from compress_cli.onnx_graph.card import Card, chosen
from compress_cli.onnx_graph.contents import Contents
from compress_cli.progress import Log
from compress_cli.statistics.gate import GateResult
from compress_cli.statistics.intervals import Estimate
from compress_cli.statistics.predictions import PredictionComparison, compare_predictions
from compress_cli.statistics.scores import Better, change_p, changes


class Against(BaseModel):
    """The file compared with an older one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline: str
    contents: Contents
    metrics: dict[str, Estimate]
    """On the same samples; empty without data."""
    compression_ratio: float
    """Bytes of the baseline / bytes of the file."""
    speedup: Speedup
    change: Estimate | None
    """Of the primary metric on the same samples; None without data."""
    change_p: float | None
    """McNemar's p-value; None for a metric that is not right-or-wrong."""
    secondary_changes: dict[str, Estimate]
    """Of the other metrics that both files have, on the same samples."""
    predictions: PredictionComparison | None = None
    """The answers of both on the same samples; None without data, or for a task that names no classes."""


class Evaluation(BaseModel):
    """The measurements of one file: contents, metrics, latency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    contents: Contents
    machine: dict[str, str | int]
    session: Options
    latency: Latency
    load: Load | None
    """With several clients at once, where requested."""
    profile: Profile | None
    data: str
    """Name of the dataset; empty where there was none, and so no metrics."""
    split: str
    samples: int
    primary: str
    metrics: dict[str, Estimate]
    better: dict[str, Better]
    """Metric name -> which of its values are the good ones."""
    against: Against | None
    warnings: list[str] = []
    """Reasons to doubt the figures."""
    gates: list[GateResult] = []


@dataclass(frozen=True)
class EvaluationRequest:
    """What to measure, and how."""

    data: str = ""  # as `--data` takes it; empty: what the file's card names
    task: str = ""
    split: SplitName = "test"
    preprocess: str = ""
    batch: int = 128  # while predicting
    latency_batch: int = 1
    threads: int | None = None  # None: all cores
    options: Options = field(default_factory=Options)
    seconds: float = 0.5  # for the timing
    caches: Caches = "warm"
    concurrency: int = 1
    shapes: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    profiled: bool = False


@dataclass(frozen=True)
class Samples:
    """A split of a dataset, and the task that judges answers on it."""

    dataset: Dataset
    task: Task
    split: Split


def evaluate(
    model: Path, baseline: Path | None, request: EvaluationRequest, log: Log, known: dict[Path, Result] | None = None
) -> Evaluation:
    """Measure a file, and the baseline on the same samples.

    known: results of files on these samples, by path, which are not predicted again; those of other files are added to it.
    """
    known = {} if known is None else known
    session = sessions.open_session(model, request.threads, request.options)
    older = sessions.open_session(baseline, request.threads, request.options) if baseline else None
    opened = [session, older] if older else [session]
    samples, task = _samples(opened, request, log)
    for file in opened if samples else []:
        if samples and file.path not in known:
            known[file.path] = measure.evaluate(file, samples.split, task, request.batch, log)
    results = [known[file.path] for file in opened] if samples else []
    feeds = _feeds(opened, samples, request)
    contents = [_contents(file, inputs, request) for file, inputs in zip(opened, feeds, strict=True)]
    speedup = latency.compare(older, session, (feeds[1], feeds[0]), 2 * request.seconds, 0, request.caches) if older else None
    return Evaluation(
        model=str(model),
        contents=contents[0],
        machine=sessions.machine(),
        session=request.options,
        latency=speedup.model if speedup else latency.latency(session, feeds[0], request.seconds, request.caches),
        load=clients.load(session, feeds[0], request.concurrency, request.seconds) if request.concurrency > 1 else None,
        profile=profiler.profile(model, feeds[0], request.threads, request.options) if request.profiled else None,
        data=samples.dataset.type if samples else "",
        split=request.split if samples else "",
        samples=len(samples.split) if samples else 0,
        primary=results[0].primary if results else task.primary,
        metrics=results[0].metrics if results else {},
        better=results[0].better if results else {},
        against=_against(older, contents, speedup, samples, results) if older and speedup else None,
        warnings=[
            *(_warnings(opened, samples.split) if samples and not request.preprocess else []),
            *(samples.dataset.remarks() if samples else ()),
        ],
    )


def _samples(opened: list[Session], request: EvaluationRequest, log: Log) -> tuple[Samples | None, Task]:
    """The samples to measure on, prepared as `--preprocess` says, and the task; no samples where nothing names a dataset."""
    card = _card(opened, request)
    prepare = preprocess.parse(request.preprocess) if request.preprocess else None
    task = chosen(Task, card.task) if card and not request.task else setting(Task, request.task or "classification", "--task")  # type: ignore[type-abstract]
    assert isinstance(task, Task)
    if request.data:
        data = named_data.named(named_data.Request(opened[0], card, task, request.data, request.split, prepare, log))
        dataset, prepare = data.dataset, data.preprocess
    elif card:
        dataset = named_data.recorded(card, log)
    else:
        return None, task
    split = dataset.split(request.split)
    own = {name: port.shape[1:] for name, port in opened[0].outputs.items()}
    task.check_split(dataset.signature().offered(own), split)
    return Samples(dataset, task, preprocess.prepared(split, prepare) if prepare else split), task


def _card(opened: list[Session], request: EvaluationRequest) -> Card | None:
    """The card of the first file that has one; a damaged card does not matter where data and task are named."""
    try:
        cards = [Card.from_metadata(session.metadata) for session in opened]
    except ArtifactError:
        if request.data and request.task:
            return None
        raise
    return next((card for card in cards if card), None)


def _feeds(opened: list[Session], samples: Samples | None, request: EvaluationRequest) -> list[Feeds]:
    """The inputs that each file is timed with: the first samples, or synthetic ones."""
    if samples:
        return [measure.sample(session, samples.split, request.latency_batch) for session in opened]
    shapes, values = example.shapes(opened[0], request.shapes), example.values(opened[0], request.values)
    return [example.synthetic(session, request.latency_batch, shapes, values) for session in opened]


def _contents(session: Session, feeds: Feeds, request: EvaluationRequest) -> Contents:
    """The contents of a file; multiply-accumulates depend on the axes that it leaves open, as one sample has them."""
    sizes = {
        name: (1 if array.shape[0] == request.latency_batch else array.shape[0], *array.shape[1:]) if array.ndim else ()
        for name, array in feeds.items()
    }
    return graph_contents.contents(session.path, sizes)


def _against(
    older: Session, contents: list[Contents], speedup: Speedup, samples: Samples | None, results: list[Result]
) -> Against:
    """The changes from the baseline to the file."""
    new, old = contents
    after, before = (result.scores for result in results) if results else ({}, {})
    paired, primary = changes(before, after), results[0].primary if results else ""
    change = paired.pop(primary, None)
    return Against(
        baseline=str(older.path),
        contents=old,
        metrics=results[1].metrics if results else {},
        compression_ratio=old.size_bytes / new.size_bytes,
        speedup=speedup,
        change=change,
        change_p=change_p(before[primary], after[primary]) if change else None,
        secondary_changes=paired,
        predictions=_predictions(samples, results) if samples else None,
    )


def _predictions(samples: Samples, results: list[Result]) -> PredictionComparison | None:
    """The answers compared sample by sample; None where the task names no classes."""
    after, before = (samples.task.scored_samples(result.heads, samples.split.truth()) for result in results)
    if before is None or after is None:
        return None
    return compare_predictions(before, after, samples.split.index, samples.task.classes(samples.dataset.signature()))


def _warnings(opened: list[Session], split: Split) -> list[str]:
    """Reasons to doubt the figures, found in the first samples."""
    texts = {
        session.path: input_range.warning(session, measure.sample(session, split, input_range.LOOKED_AT)) for session in opened
    }
    return [f"{path}: {text}" for path, text in texts.items() if text]

"""Evaluation: one ONNX file measured, alone or beside an older one, on its own data, on other data or on none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from compress_cli.data import preprocess
from compress_cli.data.datasets import Dataset, Split, SplitName
from compress_cli.data.preprocess import Preprocess
from compress_cli.data.tasks import Task
from compress_cli.document import setting
from compress_cli.errors import ArtifactError, RecipeError
from compress_cli.measurement import clients, latency, measure, named_data, sessions
from compress_cli.measurement import profile as profiler
from compress_cli.measurement.clients import Load
from compress_cli.measurement.latency import Feeds, Latency, Speedup
from compress_cli.measurement.measure import Result
from compress_cli.measurement.profile import Profile
from compress_cli.measurement.sessions import Options, Session
from compress_cli.onnx_graph import contents as held
from compress_cli.onnx_graph.card import Card, chosen
from compress_cli.onnx_graph.contents import Contents
from compress_cli.onnx_graph.shapes import parse
from compress_cli.progress import Log
from compress_cli.settings import suggest
from compress_cli.statistics.intervals import Estimate
from compress_cli.statistics.scores import Better, change_p, changes


class Against(BaseModel):
    """The file beside an older one."""

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


class Evaluation(BaseModel):
    """One file: what it holds, how well it does, how long it takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    contents: Contents
    machine: dict[str, str | int]
    session: Options
    latency: Latency
    load: Load | None
    """With several clients at once, where they were asked for."""
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


@dataclass(frozen=True)
class Asked:
    """What is to be measured, and how."""

    data: str = ""  # as `--data` takes it; empty: what the file says
    task: str = ""
    split: SplitName = "test"
    preprocess: str = ""
    batch: int = 128  # while predicting
    latency_batch: int = 1
    threads: int | None = None  # None: all cores
    options: Options = field(default_factory=Options)
    seconds: float = 0.5  # for the timing
    concurrency: int = 1
    shapes: tuple[str, ...] = ()
    profiled: bool = False


def evaluate(model: Path, baseline: Path | None, asked: Asked, log: Log) -> Evaluation:
    """All that is measured of a file, and of the baseline on the same samples."""
    session = sessions.open_session(model, asked.threads, asked.options)
    older = sessions.open_session(baseline, asked.threads, asked.options) if baseline else None
    dataset, prepare, judge = _about(session, asked, log)
    part = dataset.split(asked.split) if dataset else None
    if part is not None and dataset is not None:
        judge.check(dataset.signature(), part.targets)
    if part is not None and prepare:
        part = preprocess.prepared(part, prepare)
    both = [each for each in (session, older) if each]
    results = [measure.evaluate(each, part, judge, asked.batch, log) for each in both] if part is not None else []
    timed, against, feeds = _timed(session, older, part, asked, results)
    return Evaluation(
        model=str(model),
        contents=held.contents(model, _sizes(feeds, asked.latency_batch)),
        machine=sessions.machine(),
        session=asked.options,
        latency=timed,
        load=clients.load(session, feeds, asked.concurrency, asked.seconds) if asked.concurrency > 1 else None,
        profile=profiler.profile(model, feeds, asked.threads, asked.options) if asked.profiled else None,
        data=dataset.type if dataset else "",
        split=asked.split if dataset else "",
        samples=len(part) if part else 0,
        primary=results[0].primary if results else judge.primary,
        metrics=results[0].metrics if results else {},
        better=results[0].better if results else {},
        against=against,
    )


def _about(session: Session, asked: Asked, log: Log) -> tuple[Dataset | None, Preprocess | None, Task]:
    """Dataset, what is done to its pictures, and task: from the command line, or else from the file's own card."""
    card = _card(session, asked)
    prepare = preprocess.parse(asked.preprocess) if asked.preprocess else None
    named_task = asked.task or "classification"
    judge = chosen(Task, card.task) if card and not asked.task else setting(Task, named_task, "--task")  # type: ignore[type-abstract]
    assert isinstance(judge, Task)
    if asked.data:
        data = named_data.named(named_data.Request(session, card, judge, asked.data, asked.split, prepare, log))
        return data.dataset, data.preprocess, judge
    return named_data.recorded(card, log) if card else None, prepare, judge


def _card(session: Session, asked: Asked) -> Card | None:
    """What the file says of itself; a damaged card does not matter where data and task are named."""
    try:
        return Card.from_metadata(session.metadata)
    except ArtifactError:
        if asked.data and asked.task:
            return None
        raise


def _timed(
    session: Session, older: Session | None, part: Split | None, asked: Asked, results: list[Result]
) -> tuple[Latency, Against | None, Feeds]:
    """Latency on the first samples, or on made-up ones; in turn with the baseline's where there is one."""
    opened = [each for each in (session, older) if each]
    shapes = _shapes(session, asked.shapes)
    batch = asked.latency_batch
    feeds = [measure.sample(each, part, batch) if part else latency.made_up(each, batch, shapes) for each in opened]
    if older is None:
        return latency.latency(session, feeds[0], asked.seconds), None, feeds[0]
    speedup = latency.compare(older, session, (feeds[1], feeds[0]), 2 * asked.seconds)
    after, before = (each.scores for each in results) if results else ({}, {})
    paired, primary = changes(before, after), results[0].primary if results else ""
    change = paired.pop(primary, None)
    new, old = (held.contents(each.path, _sizes(inputs, batch)) for each, inputs in zip(opened, feeds, strict=True))
    against = Against(
        baseline=str(older.path),
        contents=old,
        metrics=results[1].metrics if results else {},
        compression_ratio=old.size_bytes / new.size_bytes,
        speedup=speedup,
        change=change,
        change_p=change_p(before[primary], after[primary]) if change else None,
        secondary_changes=paired,
    )
    return speedup.model, against, feeds[0]


def _sizes(feeds: Feeds, batch: int) -> dict[str, tuple[int, ...]]:
    """Of one sample of the inputs that are timed: multiply-accumulates depend on the axes that a file leaves open."""
    return {
        name: (1 if array.shape[0] == batch else array.shape[0], *array.shape[1:]) if array.ndim else ()
        for name, array in feeds.items()
    }


def _shapes(session: Session, given: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`--shape image=1x3x224x224`: RecipeError for another form, or an input that there is not."""
    found = parse(given)
    for name in found:
        if name not in session.inputs:
            raise RecipeError(f"--shape {name}: the file has no input '{name}'; {suggest(name, list(session.inputs))}")
    return found

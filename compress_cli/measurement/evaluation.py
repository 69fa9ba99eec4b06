"""Evaluation: one ONNX file measured, alone or beside an older one, on its own data, on other data or on none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from compress_cli.data import arrays, preprocess
from compress_cli.data.datasets import Dataset, Split, SplitName
from compress_cli.data.datasets.csv import Csv
from compress_cli.data.datasets.image_folder import ImageFolder
from compress_cli.data.datasets.npz import Npz
from compress_cli.data.tasks import Task
from compress_cli.document import setting
from compress_cli.errors import RecipeError
from compress_cli.measurement import clients, latency, measure, sessions
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
from compress_cli.progress import Log, Progress
from compress_cli.settings import suggest
from compress_cli.statistics.intervals import Estimate, mcnemar, paired_difference


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
    prepare = preprocess.parse(asked.preprocess) if asked.preprocess else None
    session = sessions.open_session(model, asked.threads, asked.options)
    older = sessions.open_session(baseline, asked.threads, asked.options) if baseline else None
    dataset, judge = _about(session, asked, log)
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
        against=against,
    )


def _about(session: Session, asked: Asked, log: Log) -> tuple[Dataset | None, Task]:
    """Dataset and task: from the command line, or else from the file's own card."""
    card = None if asked.data and asked.task else Card.from_metadata(session.metadata)
    named_task = asked.task or "classification"
    judge = chosen(Task, card.task) if card and not asked.task else setting(Task, named_task, "--task")  # type: ignore[type-abstract]
    assert isinstance(judge, Task)
    if asked.data:
        return _named(session, asked), judge
    if card is None:
        return None, judge
    named = chosen(Dataset, card.dataset)
    assert isinstance(named, Dataset)
    if named.fingerprint() != card.fingerprint:
        note = f"the dataset {named.type} here is not the one the file was made with; its figures may differ"
        log(Progress("measure", 0, 0, note=note))
    return named, judge


def _named(session: Session, asked: Asked) -> Dataset:
    """The dataset of `--data`: a plugin, or a path by what lies there, all of whose samples are the test split."""
    path = Path(asked.data)
    if path.suffix == ".csv" and "{" not in asked.data:
        return Csv(train=path, test=path)
    if path.suffix == ".npz" and "{" not in asked.data:
        names = tuple(arrays.read(path, mapped=True))
        inputs = tuple(name for name in names if name in session.inputs)
        targets = tuple(name for name in names if name not in inputs)
        if not inputs and "label" in names:
            inputs, targets = tuple(name for name in names if name != "label"), ("label",)
        return Npz(train=path, test=path, inputs=inputs, targets=targets if len(targets) == 1 else ("label",))
    if "{" not in asked.data and path.is_dir():
        shape = next(iter(session.inputs.values())).shape
        wanted = preprocess.parse(asked.preprocess)
        size, axes = wanted.size, shape[2:] if wanted.layout == "nchw" else shape[1:3]
        sides = [axis for axis in axes if axis is not None] if len(shape) == 4 else []
        if size is None and len(sides) != 2:
            raise RecipeError(f"--data {path}: the file leaves the size of pictures open; say it by --preprocess size=224")
        height, width = (size, size) if size else sides
        channels: Literal[1, 3] = 1 if 1 in shape[1:] else 3
        return ImageFolder(root=path, height=height, width=width, channels=channels)
    return setting(Dataset, asked.data, "--data")  # type: ignore[type-abstract]


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
    change = p = None
    if results and results[0].primary == results[1].primary:
        before, after = results[1].correct, results[0].correct
        change = paired_difference(before, after)
        p = mcnemar(before, after)
    new, old = (held.contents(each.path, _sizes(inputs, batch)) for each, inputs in zip(opened, feeds, strict=True))
    against = Against(
        baseline=str(older.path),
        contents=old,
        metrics=results[1].metrics if results else {},
        compression_ratio=old.size_bytes / new.size_bytes,
        speedup=speedup,
        change=change,
        change_p=p,
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

"""The one instrument: predictions and metrics of an ONNX file on a split, through ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from compress_cli import stopping
from compress_cli.data.arrays import read, release
from compress_cli.data.datasets import Split, SplitName
from compress_cli.data.rows import Values, lengths, padded
from compress_cli.data.signature import Signature
from compress_cli.data.tasks import Task
from compress_cli.errors import ArtifactError, DataError, StageError
from compress_cli.measurement.clients import Load
from compress_cli.measurement.latency import Latency, Speedup
from compress_cli.measurement.profile import FloatPart
from compress_cli.measurement.sessions import Options, Port, Session
from compress_cli.onnx_graph.contents import Contents
from compress_cli.progress import Log, Progress
from compress_cli.settings import Settings
from compress_cli.statistics import charts
from compress_cli.statistics.charts import Chart
from compress_cli.statistics.intervals import Estimate
from compress_cli.statistics.scores import Better, Score
from compress_cli.store.saves import Save, Saves

VERSION = 2
MEASUREMENT, PREDICTIONS, COMPARISON = "measurement.json", "predictions.npz", "comparison.json"
RESAMPLED = "resampled.npz"
HEAD, RIGHT, METRIC = "head.", "right.", "metric."
"""What the names of stored arrays begin with: a head, the samples that are right by a metric, a metric on resamples."""
PREDICTION_COMPARISON, PICTURES = "prediction_comparison.json", "pictures.npz"
REPORT_EVERY_S = 0.1


class Figures(BaseModel):
    """The document of a Measurement: what a file holds and how well it does on a split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: SplitName
    samples: int
    primary: str
    metrics: dict[str, Estimate]
    """Empty where the model lacks the task's head; `reason` then says what is missing."""
    better: dict[str, Better]
    """Metric name -> which of its values are the good ones."""
    shares: list[str]
    """Metrics that are nothing but the share of samples that are right."""
    contents: Contents
    reason: str = ""


class Timing(BaseModel):
    """The document of a Comparison: two files timed in turn, or one alone, and where and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machine: dict[str, str | int]
    session: Options
    latency: Latency
    """Of the model; where there is a baseline, as timed in turn with it."""
    load: Load | None
    """With several clients at once, where they were asked for."""
    speedup: Speedup | None
    """Against the baseline; None where there is none."""
    floating: list[FloatPart] | None = None
    """What computes in float in a file with integers; None of a file without."""


class RunConditions(Settings):
    """How a file is run over a split."""

    batch: int = Field(128, ge=1, le=10**6, description="samples in one run")
    threads: int | None = Field(None, ge=1, le=1024, description="threads of ONNX Runtime; default: the cores at hand")
    session: Options = Field(Options(), description="how ONNX Runtime runs it")


@dataclass(frozen=True)
class Result:
    """A model's predictions on a split and their metrics."""

    primary: str  # the metric that it goes by
    scores: dict[str, Score]  # metric name -> its value and what intervals and comparisons are made of
    better: dict[str, Better]  # metric name -> which of its values are the good ones
    heads: dict[str, np.ndarray]  # output name -> (N, ...)
    index: np.ndarray  # (N,) sample ids

    @property
    def metrics(self) -> dict[str, Estimate]:
        return {name: score.estimate for name, score in self.scores.items()}

    @property
    def shares(self) -> list[str]:
        """Metrics that are nothing but the share of samples that are right."""
        return [name for name, score in self.scores.items() if score.right is not None]


def keep(path: Path, arrays: dict[str, np.ndarray], heads: dict[str, np.ndarray]) -> None:
    """Write predictions, each array under its name, those of heads as `head.<name>`."""
    named: dict[str, Any] = {**arrays, **{f"{HEAD}{name}": head for name, head in heads.items()}}
    np.savez_compressed(path, **named)


def kept(path: Path, split: Split) -> dict[str, np.ndarray]:
    """The heads that were written for the samples of a split; ArtifactError where they are of others."""
    arrays = read(path)
    if not np.array_equal(arrays.get("index", np.empty(0)), split.index):
        raise ArtifactError(f"{path}: was predicted on other samples than the dataset gives now")
    return {name.removeprefix(HEAD): array for name, array in arrays.items() if name.startswith(HEAD)}


def keep_result(folder: Path, result: Result, drawn: Sequence[Chart] = ()) -> None:
    """Write predictions with what comparisons with other models need, right samples and metrics on common resamples, and the
    task's charts for the report."""
    right = {f"{RIGHT}{name}": score.right for name, score in result.scores.items() if score.right is not None}
    keep(folder / PREDICTIONS, {"index": result.index, **right}, result.heads)
    resampled: dict[str, Any] = {f"{METRIC}{name}": score.resampled for name, score in result.scores.items()}
    if resampled:
        np.savez_compressed(folder / RESAMPLED, **resampled)
    if drawn:
        charts.write(folder, drawn)


def kept_scores(predictions: Path, resampled: Path, figures: Figures) -> tuple[np.ndarray, dict[str, Score]]:
    """Sample ids and scores of what `keep_result` wrote; no task is needed to compare them."""
    arrays = read(predictions, ("index", *(f"{RIGHT}{name}" for name in figures.shares)))
    draws = read(resampled, tuple(f"{METRIC}{name}" for name in figures.metrics)) if figures.metrics else {}
    scores = {
        name: Score(metric.value, metric.samples, draws[f"{METRIC}{name}"], arrays.get(f"{RIGHT}{name}"))
        for name, metric in figures.metrics.items()
    }
    return arrays["index"], scores


def evaluate(session: Session, split: Split, task: Task, batch: int, log: Log, saves: Saves | None = None) -> Result:
    """Predict a split and evaluate its metrics; StageError for NaN, DataError for an empty split or labels out of range."""
    return judge(predict(session, split, batch, log, saves), split, task)


def lacking(task: Task, heads: Collection[str]) -> str:
    """Why a model with these heads can do nothing of a task; empty where it can."""
    if task.within(heads):
        return ""
    needed = " and ".join(f"'{getattr(part, 'head', '')}'" for part in task.parts.values())
    return f"this model has no head {needed}, which the task is about (it has: {', '.join(heads)})"


def judge(heads: dict[str, np.ndarray], split: Split, task: Task) -> Result:
    """The metrics of a model's predictions on a split; StageError where the model lacks the task's head."""
    possible = task.within(heads)
    if possible is None:
        raise StageError(lacking(task, heads))
    scores = possible.scores(heads, split.truth())
    better = {name: possible.metrics[name] for name in scores}
    return Result(possible.primary, scores, better, heads, split.index)


def charts_of(heads: dict[str, np.ndarray], split: Split, task: Task, signature: Signature) -> list[Chart]:
    """What the report shows of a model's answers on a split; nothing where the model lacks the task's head."""
    possible, classes = task.within(heads), {name: head.classes for name, head in signature.heads.items()}
    return possible.charts(heads, split.truth(), classes) if possible else []


def predict(session: Session, split: Split, batch: int, log: Log, saves: Saves | None = None) -> dict[str, np.ndarray]:
    """Output name -> (N, ...) over a whole split; continues from `saves`, and saves what it has from time to time.

    A file that insists on a number of samples gets it: the last batch is filled up with copies, which are dropped.
    ArtifactError where the file takes other inputs than the split gives, StageError where its outputs hold NaN.
    """
    count, size = len(split), session.batch or batch
    if count == 0:
        raise DataError("there are no samples to measure on: the split is empty")
    names = fitting(session, split)
    saves = saves or Saves()
    heads, done = _begun(saves, count, log)
    last_report = time.perf_counter()
    with stopping.held():
        for start in range(done, count, size):
            end = min(start + size, count)
            outputs = session.run(_feeds(session, names, split, slice(start, end)))
            for name in session.per_sample:
                output = outputs[name]
                if start == 0:
                    _check_output(session, name, output, size if session.batch else end)
                    heads[name] = np.empty((count, *output.shape[1:]), output.dtype)
                heads[name], output = _as_wide(session, name, heads[name], output[: end - start], split)
                heads[name][start:end] = output
            for values in split.inputs.values():
                release(values)
            if end == count or time.perf_counter() - last_report > REPORT_EVERY_S:
                last_report = time.perf_counter()
                log(Progress("measure", end, count))
            saves.step(partial(_state, heads, end))
    for name, head in heads.items():
        _check_numbers(session, name, head)
    return heads


def _as_wide(session: Session, name: str, head: np.ndarray, output: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Predictions so far and those of another batch, the shorter ones of an open length filled up with zeros: tasks leave
    out what lies behind a sample's end. StageError where samples of one shape get outputs of several."""
    if output.shape[1:] != head.shape[1:] and (lengths(split.inputs) is None or output.ndim != head.ndim):
        raise StageError(f"{session}: output '{name}' has shape {output.shape} after {head.shape}; samples should agree")
    before, now = padded([head, output])
    return before, now


def feeds(session: Session, split: Split) -> dict[str, np.ndarray]:
    """All samples of a small split as the file takes them, in order; as many as it insists on."""
    return _feeds(session, fitting(session, split), split, slice(0, session.batch or len(split)))


def sample(session: Session, split: Split, batch: int) -> dict[str, np.ndarray]:
    """`batch` samples as the file takes them (or as many as it insists on): what latency is timed with. The first ones, or
    where their lengths vary those nearest the median."""
    if len(split) == 0:
        raise DataError("there are no samples to time with: the split is empty")
    part = split.typical(session.batch or batch)
    return _feeds(session, fitting(session, part), part, slice(0, len(part)))


def fitting(session: Session, split: Split) -> dict[str, str]:
    """Name of each of the file's inputs -> name of the split's array that goes there.

    Where either side has just one input, they are paired whatever they are called; else the file may take some of the
    arrays. ArtifactError where names, shapes or number types do not fit.
    """
    ports, arrays = session.inputs, split.inputs
    names = dict(zip(ports, arrays, strict=True)) if len(ports) == len(arrays) == 1 else {name: name for name in ports}
    fits = set(names.values()) <= set(arrays) and all(_fits(port, arrays[names[name]]) for name, port in ports.items())
    if not fits:
        taken = ", ".join(f"{name}: {port}" for name, port in ports.items())
        offered = ", ".join(
            f"{name}: {array.dtype} (N{''.join(f', {axis}' for axis in array.shape[1:])})" for name, array in arrays.items()
        )
        raise ArtifactError(f"{session}: the file takes other inputs than the data gives\n  file: {taken}\n  data: {offered}")
    return names


def _fits(port: Port, array: Values) -> bool:
    """Shapes agree in all but the first axis, and no value is lost but by rounding of real numbers."""
    same_axes = len(port.shape) == array.ndim and all(
        axis in (None, length) for axis, length in zip(port.shape[1:], array.shape[1:], strict=True)
    )
    target = np.dtype(port.dtype) if port.dtype in np.sctypeDict else None
    if target is None:
        return False
    images = array.dtype == np.uint8 and target.kind == "f"
    return same_axes and (images or (array.dtype.kind == target.kind and np.can_cast(array.dtype, target, "same_kind")))


def _feeds(session: Session, names: dict[str, str], split: Split, rows: slice) -> dict[str, np.ndarray]:
    """Some samples in the number types that the file takes, filled up to the batch it insists on."""
    feeds = {}
    for name, array_name in names.items():
        part = split.inputs[array_name][rows]
        if session.batch and len(part) < session.batch:
            part = np.concatenate([part, np.repeat(part[-1:], session.batch - len(part), axis=0)])
        feeds[name] = np.require(part, session.inputs[name].dtype, ["C", "A"])  # in files arrays may begin anywhere
    return feeds


def _begun(saves: Saves, count: int, log: Log) -> tuple[dict[str, np.ndarray], int]:
    """An earlier try's predictions, in arrays for all `count` samples, and the number of samples done."""
    saved = saves.load()
    if saved is None:
        return {}, 0
    done, heads = saved.document["done"], {}
    for name, array in saved.arrays.items():
        heads[name] = np.empty((count, *array.shape[1:]), array.dtype)
        heads[name][:done] = array
    log(Progress("measure", done, count, note=f"resumed at {saved.progress}"))
    return heads, done


def _state(heads: dict[str, np.ndarray], done: int) -> Save:
    return Save({name: head[:done] for name, head in heads.items()}, {"done": done}, f"sample {done}")


def _check_output(session: Session, name: str, output: np.ndarray, batch: int) -> None:
    if output.ndim == 0 or len(output) != batch:
        raise StageError(
            f"{session}: output '{name}' has shape {output.shape} for {batch} samples; its first axis should be theirs"
        )


def _check_numbers(session: Session, name: str, values: np.ndarray) -> None:
    if values.dtype.kind == "f" and np.isnan(values).any():
        bad = int(np.isnan(values.reshape(len(values), -1)).any(axis=1).sum())
        raise StageError(
            f"{session}: output '{name}' is NaN for {bad} of {len(values)} samples; no figure can be given. "
            "Check the training, or the input's range"
        )

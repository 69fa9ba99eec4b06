"""How long a model takes, and whether one is faster than another: timed in turn, with an interval and a verdict."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from compress_cli.errors import ArtifactError
from compress_cli.measurement.sessions import Options, Session
from compress_cli.settings import Settings
from compress_cli.statistics.intervals import Estimate, bootstrap, median

Verdict = Literal["faster", "same", "slower", "too noisy to say"]
Feeds = dict[str, np.ndarray]

VERSION = 2
BLOCK_S = 0.003  # runs of one model before the other has its turn: long beside a clock tick, short beside a disturbance
SHORT_S = 2e-4  # reading a thread's CPU time takes a microsecond or two, which would show in shorter runs
LOOKS = (1, 2, 4, 8)  # times `seconds`: a comparison that is still too noisy to say goes on until the next
CONFIDENCE = 0.99
AT_EACH_LOOK = 1 - (1 - CONFIDENCE) / len(LOOKS)  # so that all looks together keep the confidence (Bonferroni)
FEWEST_ROUNDS = 10  # the least for which the median has an interval at that confidence
NOTICEABLE = 0.03  # two sessions of one file may differ by 2% through where their weights lie in memory
MOST_VALUES = 10**9
CLOCK_TICK_S = 1e-9
EQUAL = 0.05  # an interval within this of 1 says "same"


class TimingConditions(Settings):
    """On what and how long a file is timed."""

    batch: int = Field(1, ge=1, le=10**6, description="samples in one run")
    threads: int | None = Field(None, ge=1, le=1024, description="threads of ONNX Runtime; default: the cores at hand")
    seconds: float = Field(0.7, gt=0, le=600, description="time for the timing; more makes intervals narrower")
    concurrency: int = Field(
        1, ge=1, le=1024, description="clients at once, whose throughput is measured too where there are several"
    )
    session: Options = Field(Options(), description="how ONNX Runtime runs it")


class Latency(BaseModel):
    """Time of one run on one batch, as a caller from Python sees it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int
    threads: int
    runs: int
    p50_ms: Estimate
    p90_ms: float
    p99_ms: float
    throughput_per_s: float
    """Samples per second at the median."""


class Speedup(BaseModel):
    """Two models timed in turn within one run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline: Latency
    model: Latency
    speedup: Estimate
    """Time of the baseline / time of the model, above 1 where the model is faster; a 99% interval; samples are rounds.
    Without what other processes took of the time, which the latencies hold: see `compare`."""
    verdict: Verdict


def latency(session: Session, feeds: Feeds, seconds: float = 0.5) -> Latency:
    """Time runs on one batch for about `seconds` after a warm-up; a run that takes longer is timed ten times."""
    with _undisturbed():
        runs = _warm_up(session, feeds, seconds / 4)
        end = time.perf_counter() + seconds
        blocks: list[np.ndarray] = []
        while len(blocks) < FEWEST_ROUNDS or time.perf_counter() < end:
            blocks.append(_block(session, feeds, runs)[0])
    return _summary(session, feeds, blocks)


def compare(baseline: Session, model: Session, feeds: tuple[Feeds, Feeds], seconds: float = 0.7, seed: int = 0) -> Speedup:
    """Time two models in turn for about `seconds` after a warm-up, up to eight times as long while it is too noisy to say;
    feeds are the batch of each.

    Each round runs a short block of either, in an order drawn at random, and gives one ratio: of the fastest run of each
    block, on the clock that counts only what the processor did for the calling thread, where that is the one that works.
    Beside other busy processes such ratios scatter some ten times less than those of the blocks' medians by the wall clock.
    The interval is that of the median ratio.
    """
    pair = ((baseline, feeds[0]), (model, feeds[1]))
    order = np.random.default_rng(seed)
    walls: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    fastest: tuple[list[float], list[float]] = ([], [])
    with _undisturbed():
        runs = [_warm_up(session, feed, seconds / 8) for session, feed in pair]
        if max(runs) <= 2 * min(runs):
            runs = [max(runs)] * 2  # the fastest of more runs is faster
        begun = time.perf_counter()
        for look in LOOKS:
            while len(walls[0]) < FEWEST_ROUNDS or time.perf_counter() < begun + look * seconds:
                for who in order.permutation(2):
                    wall, own = _block(*pair[who], runs[who])
                    walls[who].append(wall)
                    fastest[who].append(own.min())
            speedup = median(np.array(fastest[0]) / np.array(fastest[1]), AT_EACH_LOOK)
            if verdict(speedup) != "too noisy to say":
                break
    return Speedup(
        baseline=_summary(*pair[0], walls[0]),
        model=_summary(*pair[1], walls[1]),
        speedup=speedup,
        verdict=verdict(speedup),
    )


def verdict(speedup: Estimate) -> Verdict:
    """What the interval of a speed-up allows to say."""
    if speedup.low > 1 + NOTICEABLE:
        return "faster"
    if speedup.high < 1 - NOTICEABLE:
        return "slower"
    return "same" if speedup.low >= 1 - EQUAL and speedup.high <= 1 + EQUAL else "too noisy to say"


def made_up(session: Session, batch: int, shapes: dict[str, tuple[int, ...]] | None = None, seed: int = 0) -> Feeds:
    """Inputs of the shapes that the file states: noise for real numbers, zeros for whole ones (which may be indices).

    shapes: of inputs whose axes the file leaves open. ArtifactError where nothing tells them, or where a stated shape is
    not the file's or is too large.
    """
    random = np.random.default_rng(seed)
    feeds = {}
    for name, port in session.inputs.items():
        stated = (shapes or {}).get(name)
        if stated is None and None in port.shape[1:]:
            raise ArtifactError(
                f"{session.path}: input '{name}' is {port}; tell its shape with --shape {name}=..., or name data with --data"
            )
        shape = stated or tuple(batch if axis is None else axis for axis in port.shape)
        if len(shape) != len(port.shape) or any(axis not in (None, own) for axis, own in zip(port.shape, shape, strict=True)):
            raise ArtifactError(f"{session.path}: input '{name}' is {port}, which {shape} is not")
        if math.prod(shape) > MOST_VALUES:
            raise ArtifactError(f"{session.path}: input '{name}' of {port} is too large to be made up")
        if port.dtype not in np.sctypeDict:
            raise ArtifactError(
                f"{session.path}: input '{name}' takes {port.dtype}, which can't be made up; name data with --data"
            )
        feeds[name] = (random.random(shape) if port.dtype.startswith("float") else np.zeros(shape)).astype(port.dtype)
    return feeds


def _warm_up(session: Session, feeds: Feeds, seconds: float) -> int:
    """Run until two blocks in a row agree within 5%, at most `seconds`; returns runs per block."""
    session.run(feeds)  # with its complaints, before the bare runs that are timed
    end = time.perf_counter() + seconds
    fastest = last = float(_block(session, feeds, 1)[1].min())
    while True:
        now = float(_block(session, feeds, _runs(fastest))[1].min())
        fastest = min(fastest, now)
        if abs(now - last) < 0.05 * last or time.perf_counter() > end:
            return _runs(fastest)
        last = now


def _runs(seconds: float) -> int:
    """So many runs of that length fill a block."""
    return max(1, min(1000, round(BLOCK_S / seconds)))


def _block(session: Session, feeds: Feeds, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each of `runs` runs (runs,): by the wall clock, and without what other processes took, where that can be
    told. Short runs are preceded by one that fills the caches again, and are disturbed so seldom that the wall clock serves.
    """
    run, wall, cpu = session.raw.run, time.perf_counter, time.thread_time
    if runs > 2:
        run(None, feeds)
    if not session.works_in_caller or runs > BLOCK_S / SHORT_S:
        marks = [wall()]
        for _ in range(runs):
            run(None, feeds)
            marks.append(wall())
        return (np.diff(marks),) * 2
    both = [(wall(), cpu())]
    for _ in range(runs):
        run(None, feeds)
        both.append((wall(), cpu()))
    walls, own = np.diff(np.array(both), axis=0).T
    return walls, np.maximum(own, CLOCK_TICK_S)


def _summary(session: Session, feeds: Feeds, blocks: list[np.ndarray]) -> Latency:
    # Runs of one block are alike, so the interval is of the blocks' medians.
    middle = bootstrap(1e3 * np.array([np.median(block) for block in blocks]), "median", draws=500)
    times = 1e3 * np.concatenate(blocks)
    p90, p99 = np.percentile(times, [90, 99])
    batch = max((len(each) for each in feeds.values() if each.ndim), default=1)
    return Latency(
        batch=batch,
        threads=session.threads,
        runs=len(times),
        p50_ms=middle,
        p90_ms=float(p90),
        p99_ms=float(p99),
        throughput_per_s=1e3 * batch / middle.value,
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection in between."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

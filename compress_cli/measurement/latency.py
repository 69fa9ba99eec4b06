"""How long a model takes, and whether one is faster than another: timed in turn, with an interval and a verdict."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from compress_cli.measurement import timing
from compress_cli.measurement.sessions import Feeds, Options, Session
from compress_cli.measurement.timing import Caches, Runs
from compress_cli.settings import Settings
from compress_cli.statistics.intervals import Estimate
from compress_cli.statistics.student import central, geometric_mean

Verdict = Literal["faster", "same", "slower", "too noisy to say"]

VERSION = 3
TRIALS = 6  # in `seconds`, each on sessions of its own: what the interval is made of
LOOKS = (1, 2, 4, 8, 16)  # times `seconds`: a comparison that is still too noisy to say goes on until the next
CONFIDENCE = 0.99
AT_EACH_LOOK = 1 - (1 - CONFIDENCE) / len(LOOKS)  # so that all looks together keep the confidence (Bonferroni)
NOTICEABLE = 0.03  # a smaller difference is not called one
EQUAL = 0.05  # an interval within this of 1 says "same"


Report = Callable[[int, int], None]
"""Is told how many trials are done, of how many that are meant so far."""


def _nobody(done: int, total: int) -> None:
    pass


class TimingConditions(Settings):
    """On what and how long a file is timed."""

    batch: int = Field(1, ge=1, le=10**6, description="samples in one run")
    threads: int | None = Field(None, ge=1, le=1024, description="threads of ONNX Runtime; default: the cores at hand")
    seconds: float = Field(0.7, gt=0, le=600, description="time for the timing; more makes intervals narrower")
    caches: Caches = Field(
        "warm",
        description="warm: run after run, as benchmarks and busy servers do; cold: other data passes through the processor's "
        "caches before each timed run, as in a program that does other work between two calls",
    )
    concurrency: int = Field(
        1, ge=1, le=1024, description="clients at once, whose throughput is measured too where there are several"
    )
    session: Options = Field(Options(), description="how ONNX Runtime runs it")


class Latency(BaseModel):
    """Time of one run on one batch by the wall clock, as a caller from Python sees it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int | None
    """Samples in one run; None where the file does not tell which axis counts them."""
    threads: int
    runs: int
    p50_ms: Estimate
    """The median of the runs that no other process interrupted. Its samples are trials, each on a freshly opened session:
    the geometric mean of their medians, without trials in which something else disturbed a run more than in the rest."""
    p90_ms: float
    p99_ms: float
    """Of all runs."""
    throughput_per_s: float | None
    """Samples in all runs / their time in all; None where the batch is not known."""
    runs_per_s: float | None = None
    """Runs / their time in all."""
    interrupted: float = 0.0
    """Share of the runs during which another process took a core from this one."""
    caches: Caches = "warm"


class Speedup(BaseModel):
    """Two models timed in turn within one run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline: Latency
    model: Latency
    speedup: Estimate
    """The baseline's p50 / the model's p50, above 1 where the model is faster; a 99% interval; samples are trials."""
    verdict: Verdict


def latency(session: Session, feeds: Feeds, seconds: float = 0.5, caches: Caches = "warm", report: Report = _nobody) -> Latency:
    """Time runs on one batch for about `seconds`."""
    alone = []
    for (runs,) in itertools.islice(timing.trials([(session, feeds)], seconds, TRIALS, caches, seed=0), TRIALS):
        alone.append(runs)
        report(len(alone), TRIALS)
    return _summary(session, feeds, alone, central(np.array([runs.typical_s() for runs in alone])), caches)


def compare(
    baseline: Session,
    model: Session,
    feeds: tuple[Feeds, Feeds],
    seconds: float = 0.7,
    seed: int = 0,
    caches: Caches = "warm",
    report: Report = _nobody,
) -> Speedup:
    """Time two models in turn for about `seconds`, up to sixteen times as long while it is too noisy to say; feeds are the
    batch of each.

    Both get the same number of runs, timed and untimed, in blocks whose order is drawn at random. Each trial gives one ratio
    of medians. The interval is Student's, of the trimmed mean of their logarithms: it holds whatever disturbs the runs of
    one trial, and whatever two sessions of one file differ by.
    """
    pair = ((baseline, feeds[0]), (model, feeds[1]))
    series = timing.trials(pair, seconds, TRIALS, caches, seed)
    trials: list[tuple[Runs, ...]] = []
    end = time.perf_counter() + LOOKS[-1] * seconds
    for look in LOOKS:
        while len(trials) < TRIALS or (len(trials) < look * TRIALS and time.perf_counter() < end):
            trials.append(next(series))
            report(len(trials), look * TRIALS)
        ratios = np.array([old.typical_s() / new.typical_s() for old, new in trials])
        speedup = geometric_mean(ratios, AT_EACH_LOOK)
        if verdict(speedup) != "too noisy to say":
            break
    return Speedup(
        baseline=_summary(*pair[0], [old for old, _ in trials], central(ratios), caches),
        model=_summary(*pair[1], [new for _, new in trials], central(ratios), caches),
        speedup=speedup,
        verdict=verdict(speedup),
    )


def verdict(speedup: Estimate) -> Verdict:
    """The verdict that the interval of a speed-up allows."""
    if speedup.low > 1 + NOTICEABLE:
        return "faster"
    if speedup.high < 1 - NOTICEABLE:
        return "slower"
    return "same" if speedup.low >= 1 - EQUAL and speedup.high <= 1 + EQUAL else "too noisy to say"


def _summary(session: Session, feeds: Feeds, trials: Sequence[Runs], kept: np.ndarray, caches: Caches) -> Latency:
    """kept: positions of the trials that the ratio rests on, so that it is the ratio of the medians too."""
    seconds = np.concatenate([runs.seconds for runs in trials])
    p90, p99 = np.percentile(1e3 * seconds, [90, 99])
    batch, total = session.samples(feeds), float(seconds.sum())
    return Latency(
        batch=batch,
        threads=session.threads,
        runs=len(seconds),
        p50_ms=geometric_mean(1e3 * np.array([trials[position].typical_s() for position in kept]), 0.95, trim=False),
        p90_ms=float(p90),
        p99_ms=float(p99),
        throughput_per_s=None if batch is None else batch * len(seconds) / total,
        runs_per_s=len(seconds) / total,
        interrupted=float(np.mean(np.concatenate([runs.interrupted for runs in trials]))),
        caches=caches,
    )

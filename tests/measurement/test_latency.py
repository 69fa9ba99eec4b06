"""Latency: what is timed, what the verdicts rest on, and that a model is never faster than itself."""

import itertools
import time

import numpy as np
import pytest

from compress_cli.errors import StageError
from compress_cli.measurement import timing
from compress_cli.measurement.example import synthetic
from compress_cli.measurement.latency import TRIALS, compare, latency, verdict
from compress_cli.measurement.sessions import open_session
from compress_cli.measurement.timing import Runs
from compress_cli.statistics.intervals import Estimate


@pytest.fixture
def pair(linear_file):
    """A small and a large product of matrices."""
    rng = np.random.default_rng(0)
    small, large = rng.random((512, 64)), rng.random((512, 2048))
    return [open_session(linear_file(w, shape=("batch", 512), name=f"{w.shape[1]}.onnx"), threads=1) for w in (small, large)]


def test_a_smaller_product_is_faster_and_the_other_way_slower(pair):
    small, large = pair
    feeds = synthetic(small, 16)
    one, other = compare(large, small, (feeds, feeds), 0.3), compare(small, large, (feeds, feeds), 0.3)
    assert (one.verdict, other.verdict) == ("faster", "slower")
    assert one.speedup.value * other.speedup.value == pytest.approx(1, abs=0.7)  # on a busy machine too
    assert one.speedup.low <= one.speedup.value <= one.speedup.high


def test_a_model_is_not_faster_than_itself(linear_file):
    # Each is wrong with at most 1% (nominal, and the interval also has to clear 3%): two or more of eight with 0.3% at most.
    path = linear_file(np.random.default_rng(0).random((512, 512)), shape=("batch", 512))
    first, second = open_session(path, threads=1), open_session(path, threads=1)
    feeds = synthetic(first, 4)
    verdicts = [compare(first, second, (feeds, feeds), 0.05, seed).verdict for seed in range(8)]
    assert sum(verdict in ("faster", "slower") for verdict in verdicts) < 2


def test_a_fifth_more_work_is_slower(linear_file):
    # Missed where it is too noisy to say; of three, one has to be called, and none the wrong way.
    rng = np.random.default_rng(0)
    files = [linear_file(rng.random((512, width)), shape=("batch", 512), name=f"{width}.onnx") for width in (1024, 1280)]
    first, second = (open_session(path, threads=1) for path in files)
    feeds = synthetic(first, 4)
    verdicts = {compare(first, second, (feeds, feeds), 0.1, seed).verdict for seed in range(3)}
    assert "slower" in verdicts
    assert "faster" not in verdicts


def test_it_goes_on_while_it_is_too_noisy_and_not_for_ever(monkeypatch, pair):
    feeds, random, now = synthetic(pair[0], 1), np.random.default_rng(0), itertools.count(0, 0.01)
    monkeypatch.setattr(timing, "_trial", lambda *_: [Runs(random.uniform(1, 3, 3), np.zeros(3, bool)) for _ in range(2)])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    result = compare(*pair, (feeds, feeds), 100)
    assert result.verdict == "too noisy to say"
    assert result.speedup.samples == 16 * TRIALS
    assert compare(*pair, (feeds, feeds), 0.01).speedup.samples == TRIALS  # where the time is up before


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (1.5, 2.5, "faster"),
        (1.031, 9.0, "faster"),
        (1.029, 9.0, "too noisy to say"),
        (0.3, 0.96, "slower"),
        (0.96, 1.04, "same"),
        (1.01, 1.04, "same"),
        (1.01, 1.5, "too noisy to say"),
        (0.5, 2.0, "too noisy to say"),
    ],
)
def test_verdicts(low, high, message):
    assert verdict(Estimate(value=(low + high) / 2, low=low, high=high, samples=9)) == message


def test_latency_is_that_of_a_plain_loop(pair):
    session = pair[1]
    feeds = synthetic(session, 64)
    result = latency(session, feeds, 0.3)
    times = []
    for _ in range(200):
        begun = time.perf_counter()
        session.raw.run(None, feeds)
        times.append(1e3 * (time.perf_counter() - begun))
    assert 0.2 < result.p50_ms.value / np.median(times) < 5  # other work on the machine comes and goes between the two
    assert result.p50_ms.low <= result.p50_ms.value <= result.p90_ms <= result.p99_ms
    assert (result.batch, result.threads) == (64, 1)
    assert result.throughput_per_s == pytest.approx(64 * result.runs_per_s)
    share = result.throughput_per_s / (64e3 / result.p50_ms.value)
    assert share <= 1.2
    assert share > 0.2 or result.interrupted > 0.1  # the median leaves interrupted runs out, the throughput does not


def test_time_is_bounded(pair):
    begun = time.perf_counter()
    latency(pair[0], synthetic(pair[0], 1), 0.2)
    assert time.perf_counter() - begun < 1.0


def test_what_does_not_run_is_said_before_it_is_timed(pair):
    with pytest.raises(StageError, match="could not run it"):
        latency(pair[0], {"image": np.zeros((1, 3), np.float32)})

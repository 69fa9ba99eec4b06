"""Latency: what is timed, what the verdicts rest on, and that a model is never faster than itself."""

import time

import numpy as np
import pytest

from compress_cli.errors import ArtifactError, StageError
from compress_cli.intervals import Estimate
from compress_cli.latency import compare, latency, made_up, verdict
from compress_cli.runtime import open_session


@pytest.fixture
def pair(linear_file):
    """A small and a large product of matrices."""
    rng = np.random.default_rng(0)
    small, large = rng.random((512, 64)), rng.random((512, 2048))
    return [open_session(linear_file(w, shape=("batch", 512), name=f"{w.shape[1]}.onnx"), threads=1) for w in (small, large)]


def test_a_smaller_product_is_faster_and_the_other_way_slower(pair):
    small, large = pair
    feeds = made_up(small, 16)
    one, other = compare(large, small, (feeds, feeds), 0.3), compare(small, large, (feeds, feeds), 0.3)
    assert (one.verdict, other.verdict) == ("faster", "slower")
    assert one.speedup.value == pytest.approx(one.baseline.p50_ms.value / one.model.p50_ms.value, rel=0.3)
    assert one.speedup.low <= one.speedup.value <= one.speedup.high


def test_a_model_is_not_faster_than_itself(linear_file):
    # 99% intervals that also have to clear 2%: ten wrong verdicts in a thousand at the very most
    path = linear_file(np.random.default_rng(0).random((512, 512)), shape=("batch", 512))
    first, second = open_session(path, threads=1), open_session(path, threads=1)
    feeds = made_up(first, 4)
    verdicts = [compare(first, second, (feeds, feeds), 0.15, seed).verdict for seed in range(5)]
    assert not {"faster", "slower"} & {*verdicts}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.5, 2.5, "faster"),
        (1.021, 9.0, "faster"),
        (0.3, 0.97, "slower"),
        (0.96, 1.04, "same"),
        (1.01, 1.04, "same"),
        (1.01, 1.5, "too noisy to say"),
        (0.5, 2.0, "too noisy to say"),
    ],
)
def test_verdicts(low, high, said):
    assert verdict(Estimate(value=(low + high) / 2, low=low, high=high, samples=9)) == said


def test_latency_is_that_of_a_plain_loop(pair):
    session = pair[1]
    feeds = made_up(session, 64)
    found = latency(session, feeds, 0.3)
    times = []
    for _ in range(200):
        begun = time.perf_counter()
        session.raw.run(None, feeds)
        times.append(1e3 * (time.perf_counter() - begun))
    assert 0.2 < found.p50_ms.value / np.median(times) < 5  # other work on the machine comes and goes between the two
    assert found.p50_ms.low <= found.p50_ms.value <= found.p90_ms <= found.p99_ms
    assert (found.batch, found.threads) == (64, 1)
    assert found.throughput_per_s == pytest.approx(64e3 / found.p50_ms.value)


def test_time_is_bounded(pair):
    begun = time.perf_counter()
    latency(pair[0], made_up(pair[0], 1), 0.2)
    assert time.perf_counter() - begun < 1.0


def test_made_up_inputs_have_the_files_shapes(linear_file):
    session = open_session(linear_file(np.eye(4), shape=("batch", 2, 2)))
    assert made_up(session, 3)["image"].shape == (3, 2, 2)
    assert made_up(open_session(linear_file(np.eye(4), shape=(5, 4))), 3)["image"].shape == (5, 4)
    with pytest.raises(ArtifactError, match=r"input 'image' is float32 \(\?, 1, \?\).*--data"):
        made_up(open_session(linear_file(np.eye(4), shape=("batch", 1, "length"))), 3)


def test_what_does_not_run_is_said_before_it_is_timed(pair):
    with pytest.raises(StageError, match="could not run it"):
        latency(pair[0], {"image": np.zeros((1, 3), np.float32)})

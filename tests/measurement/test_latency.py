"""Latency: what is timed, what the verdicts rest on, and that a model is never faster than itself."""

import time

import numpy as np
import pytest

from compress_cli.errors import ArtifactError, StageError
from compress_cli.measurement import latency as latency_module
from compress_cli.measurement.latency import compare, latency, made_up, verdict
from compress_cli.measurement.sessions import open_session
from compress_cli.statistics.intervals import Estimate


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
    assert one.speedup.value * other.speedup.value == pytest.approx(1, abs=0.5)  # on a busy machine too
    assert one.speedup.low <= one.speedup.value <= one.speedup.high


def test_a_model_is_not_faster_than_itself(linear_file):
    # Each is wrong with at most 1% (nominal, and the interval also has to clear 3%): two or more of eight with 0.3% at most.
    path = linear_file(np.random.default_rng(0).random((512, 512)), shape=("batch", 512))
    first, second = open_session(path, threads=1), open_session(path, threads=1)
    feeds = made_up(first, 4)
    verdicts = [compare(first, second, (feeds, feeds), 0.05, seed).verdict for seed in range(8)]
    assert sum(each in ("faster", "slower") for each in verdicts) < 2


def test_a_fifth_more_work_is_slower(linear_file):
    # Missed where it is too noisy to say; of three, one has to be called, and none the wrong way.
    rng = np.random.default_rng(0)
    files = [linear_file(rng.random((512, width)), shape=("batch", 512), name=f"{width}.onnx") for width in (1024, 1280)]
    first, second = (open_session(each, threads=1) for each in files)
    feeds = made_up(first, 4)
    verdicts = {compare(first, second, (feeds, feeds), 0.1, seed).verdict for seed in range(3)}
    assert "slower" in verdicts
    assert "faster" not in verdicts


def test_what_other_processes_take_is_left_out(monkeypatch, pair):
    """The wall clock of every other block jumps by more than a run takes; the thread's own clock does not."""
    small, _ = pair
    feeds = made_up(small, 256)
    real, blocks = time.perf_counter, iter(range(10**9))
    timed = latency_module._block

    def disturbed(*arguments):
        wall, own = timed(*arguments)
        return wall + 0.1 * (next(blocks) % 3 == 0), own

    monkeypatch.setattr(latency_module, "_block", disturbed)
    begun = real()
    assert compare(small, small, (feeds, feeds), 0.1).verdict == "same"
    assert real() - begun < 5


def test_it_goes_on_while_it_is_too_noisy_and_not_for_ever(monkeypatch, pair):
    feeds = made_up(pair[0], 1)
    random = np.random.default_rng(0)
    monkeypatch.setattr(latency_module, "_block", lambda *_: (np.array([0.001]), random.uniform(0.001, 0.003, 1)))
    now = iter(np.arange(10**6) * 0.001)  # the clock is read once a round
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    found = compare(*pair, (feeds, feeds), 0.05)
    assert found.verdict == "too noisy to say"
    assert 400 <= found.speedup.samples <= 420  # eight times 0.05 s, and the looks


@pytest.mark.parametrize(
    ("low", "high", "said"),
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

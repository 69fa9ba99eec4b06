"""Several clients on one session: counts against the clock, and that two do as much as they can."""

import time

import numpy as np
import pytest

from compress_cli.errors import StageError
from compress_cli.measurement.clients import load
from compress_cli.measurement.example import synthetic
from compress_cli.measurement.sessions import open_session


@pytest.fixture
def session(linear_file):
    return open_session(linear_file(np.ones((512, 512)), shape=("batch", 512)), threads=1)


@pytest.mark.parametrize("clients", [1, 3])
def test_throughput_is_runs_by_time(session, clients):
    begun = time.perf_counter()
    result = load(session, synthetic(session, 4), clients, 0.3)
    took = time.perf_counter() - begun
    assert (result.clients, result.batch) == (clients, 4)
    assert result.throughput_per_s.low <= result.throughput_per_s.value <= result.throughput_per_s.high
    assert result.runs * 4 / took < result.throughput_per_s.value * 1.1  # the whole call took longer than the time counted
    assert result.throughput_per_s.value == pytest.approx(result.runs * 4 / 0.3, rel=0.35)
    assert result.p50_ms <= result.p90_ms <= result.p99_ms


class Sleeper:
    """A session that takes 20 ms whatever else is going on."""

    raw = property(lambda self: self)
    readable = ()

    def samples(self, feeds):
        return len(feeds["x"])

    def run(self, *arguments):
        time.sleep(0.02)


def test_clients_do_not_wait_for_each_other():
    one, four = (load(Sleeper(), {"x": np.zeros((5, 1))}, clients, 0.4) for clients in (1, 4))
    assert one.throughput_per_s.value == pytest.approx(5 / 0.02, rel=0.3)
    assert four.throughput_per_s.value == pytest.approx(4 * 5 / 0.02, rel=0.3)
    assert 20 <= four.p50_ms < 30


def test_what_does_not_run_is_said_at_once(session):
    with pytest.raises(StageError, match="could not run it"):
        load(session, {"image": np.zeros((1, 3), np.float32)}, 2, 0.1)

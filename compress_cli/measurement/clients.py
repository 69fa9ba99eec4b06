"""How an open file does when several clients ask at once."""

from __future__ import annotations

import threading
import time

import numpy as np
from pydantic import BaseModel, ConfigDict

from compress_cli.measurement.sessions import Session
from compress_cli.statistics.intervals import Estimate, bootstrap

SLICES = 20  # parts of the time, whose rates make the interval
WARM_UP = 0.25  # of the time


class Load(BaseModel):
    """Time of one run, and runs in all, while each of several clients sends its next batch when it has its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clients: int
    batch: int
    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput_per_s: Estimate
    """Samples per second, of all clients together."""


def load(session: Session, feeds: dict[str, np.ndarray], clients: int, seconds: float) -> Load:
    """Let so many threads run one session for about `seconds` after a warm-up."""
    session.run(feeds)  # with its complaints, before the bare runs that are timed
    ends: list[list[tuple[float, float]]] = [[] for _ in range(clients)]  # of each client: start and end of each run
    gate = threading.Barrier(clients + 1)
    stop = threading.Event()

    def client(own: list[tuple[float, float]]) -> None:
        run, clock = session.raw.run, time.perf_counter
        gate.wait()
        while not stop.is_set():
            begun = clock()
            run(None, feeds)
            own.append((begun, clock()))

    threads = [threading.Thread(target=client, args=(own,), daemon=True) for own in ends]
    for each in threads:
        each.start()
    gate.wait()
    time.sleep(WARM_UP * seconds)
    begun = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for each in threads:
        each.join()
    end = time.perf_counter()
    runs = np.array([each for own in ends for each in own if each[1] >= begun])  # (runs, 2)
    batch = max((len(each) for each in feeds.values() if each.ndim), default=1)
    counts, edges = np.histogram(runs[:, 1], np.linspace(begun, end, SLICES + 1))
    p50, p90, p99 = np.percentile(1e3 * (runs[:, 1] - runs[:, 0]), [50, 90, 99])
    return Load(
        clients=clients,
        batch=batch,
        runs=len(runs),
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        throughput_per_s=bootstrap(batch * counts / np.diff(edges)),
    )

"""How an open file does when several clients ask at once."""

from __future__ import annotations

import threading
import time

import numpy as np
from pydantic import BaseModel, ConfigDict

from compress_cli.measurement.sessions import Feeds, Session
from compress_cli.statistics.intervals import Estimate, bootstrap

SLICES = 20  # parts of the time, whose rates make the interval
WARM_UP = 0.25  # of the time


class Load(BaseModel):
    """Several clients at once on one session, each of which sends its next batch when it has its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clients: int
    batch: int | None
    """Samples in one run; None where the file does not tell which axis counts them."""
    runs: int
    """Of all clients together."""
    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput_per_s: Estimate | None
    """Samples per second of all clients together; None where the batch is not known."""


def load(session: Session, feeds: Feeds, clients: int, seconds: float) -> Load:
    """Let so many threads run one session for about `seconds` after a warm-up."""
    session.run(feeds)  # with its complaints, before the bare runs that are timed
    spans: list[list[tuple[float, float]]] = [[] for _ in range(clients)]  # of each client: start and end of each run
    gate = threading.Barrier(clients + 1)
    stop = threading.Event()

    def client(own_spans: list[tuple[float, float]]) -> None:
        run, outputs, clock = session.raw.run, session.readable, time.perf_counter
        gate.wait()
        while not stop.is_set():
            start = clock()
            run(outputs, feeds)
            own_spans.append((start, clock()))

    threads = [threading.Thread(target=client, args=(own_spans,), daemon=True) for own_spans in spans]
    for thread in threads:
        thread.start()
    gate.wait()
    time.sleep(WARM_UP * seconds)
    begin = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    end = time.perf_counter()
    runs = np.array([span for own_spans in spans for span in own_spans if span[1] >= begin])  # (runs, 2)
    batch = session.samples(feeds)
    counts, edges = np.histogram(runs[:, 1], np.linspace(begin, end, SLICES + 1))
    p50, p90, p99 = np.percentile(1e3 * (runs[:, 1] - runs[:, 0]), [50, 90, 99])
    return Load(
        clients=clients,
        batch=batch,
        runs=len(runs),
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        throughput_per_s=None if batch is None else bootstrap(batch * counts / np.diff(edges)),
    )

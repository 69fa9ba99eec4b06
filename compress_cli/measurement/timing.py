"""The stopwatch: runs of one or two models in turn, on freshly opened sessions, and which of them were interrupted."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from compress_cli.measurement.sessions import Feeds, Session

Caches = Literal["warm", "cold"]

BLOCK_S = 0.003  # runs of one model before the other has its turn: long against a clock tick, short against a disturbance
MOST_RUNS = 200  # in a block
SLOW_S = 0.05  # a longer run is timed alone: what the caches held before it hardly matters to it
GROUP_S = 3e-4  # asking for interruptions takes a microsecond, so short runs are asked about together
WARM_UP_S = 0.01  # the least, of all models together; a single round where that takes longer
PADDING = (4.0, 12.0)  # logarithms of bytes: blocks of 55 B to 160 kB
MOST_BLOCKS = 200
PADDED_TRIALS = (2, 9)  # so many trials keep their padding: from, to
REOPENING = 2.0  # times the whole timing: files that take longer to open six times keep their sessions
EVICTED_BYTES = 64 << 20  # where the system does not tell the size of the largest cache


class Pace(NamedTuple):
    """How runs are grouped: the same for every model of a comparison."""

    untimed: int  # runs of a block before the timed ones, which fill the caches again
    timed: int  # runs of a block
    group: int  # runs between two looks at whether they were interrupted


@dataclass(frozen=True)
class Runs:
    """Timed runs of one session."""

    seconds: np.ndarray  # (runs,) by the wall clock
    interrupted: np.ndarray  # (runs,) whether another process took a core from this one meanwhile

    def typical_s(self) -> float:
        """The median of the runs that were not interrupted; of all, where each one was."""
        calm = self.seconds[~self.interrupted]
        return float(np.median(calm if len(calm) else self.seconds))


def trials(
    models: Sequence[tuple[Session, Feeds]], seconds: float, count: int, caches: Caches, seed: int
) -> Iterator[tuple[Runs, ...]]:
    """Yield one trial after the other, `count` of them in about `seconds`: the runs of each model.

    Where a model's weights and buffers lie in memory changes the time of a small one by 5% and more, and differs from one
    session of the same file to the next. Each trial therefore opens its own sessions, where that does not take too long.
    """
    order = np.random.default_rng(seed)
    reopen = count * sum(session.opened_in_s for session, _ in models) <= REOPENING * seconds
    evicted = np.zeros(_evicted_bytes(), np.uint8) if caches == "cold" else None
    for session, feeds in models:
        session.run(feeds)  # with its complaints, before the bare runs that are timed
    padding: list[list[np.ndarray]] = []
    while True:
        with _undisturbed():
            pace = _warm_up(models, seconds / count / 4, caches)
            trial = _trial(models, pace, seconds / count, evicted, order)
        yield trial
        if reopen:
            models = _reopened(models, padding, order)
            del padding[: -int(order.integers(*PADDED_TRIALS))]


def _reopened(
    models: Sequence[tuple[Session, Feeds]], padding: list[list[np.ndarray]], order: np.random.Generator
) -> list[tuple[Session, Feeds]]:
    """Fresh sessions and arrays, opened in random order.

    Memory that was freed is given out again, so a session would lie where the last one lay, trial for trial. The old ones are
    still open meanwhile, and blocks of random sizes, added to `padding`, shift the new ones.
    """
    fresh = {}
    for position in order.permutation(len(models)):
        sizes = np.exp(order.uniform(*PADDING, order.integers(1, MOST_BLOCKS)))
        padding.append([np.empty(int(size), np.uint8) for size in sizes])
        session, feeds = models[position]
        fresh[position] = (session.reopened(), {name: array.copy() for name, array in feeds.items()})
    return [fresh[position] for position in range(len(models))]


def _warm_up(models: Sequence[tuple[Session, Feeds]], seconds: float, caches: Caches) -> Pace:
    """Run the models in turn, equally often, until two rounds agree within 5%, at most `seconds`; the pace that suits.

    The first runs of a session are slower: it still asks for memory and starts threads.
    """
    begin = time.perf_counter()
    fastest = last = [np.inf] * len(models)
    while True:
        now = []
        for session, feeds in models:
            begun = time.perf_counter()
            session.raw.run(session.readable, feeds)
            now.append(time.perf_counter() - begun)
        fastest = [min(pair) for pair in zip(fastest, now, strict=True)]
        steady = all(abs(new - old) < 0.05 * old for new, old in zip(now, last, strict=True))
        spent = time.perf_counter() - begin
        if spent > seconds or (steady and spent > WARM_UP_S):
            return _pace(min(fastest), max(fastest), caches)
        last = now


def _pace(fastest_s: float, slowest_s: float, caches: Caches) -> Pace:
    """The pace for models whose runs take so long."""
    if caches == "cold":
        return Pace(0, 1, 1)
    if slowest_s > SLOW_S:
        return Pace(0, 1, 1)
    timed = min(MOST_RUNS, max(3, round(BLOCK_S / max(slowest_s, 1e-9))))
    return Pace(2, timed, min(timed, max(1, int(GROUP_S / max(fastest_s, 1e-9)))))


def _trial(
    models: Sequence[tuple[Session, Feeds]],
    pace: Pace,
    seconds: float,
    evicted: np.ndarray | None,
    order: np.random.Generator,
) -> tuple[Runs, ...]:
    """Blocks of each model for `seconds`, at least two each: in a random order, then in the reverse order."""
    blocks: list[list[Runs]] = [[] for _ in models]
    end = time.perf_counter() + seconds
    while not blocks[0] or time.perf_counter() < end:
        first = order.permutation(len(models))
        for position in (*first, *first[::-1]):
            if evicted is not None:
                evicted += 1
            session, feeds = models[position]
            blocks[position].append(_block(session, feeds, pace))
    return tuple(
        Runs(np.concatenate([block.seconds for block in row]), np.concatenate([block.interrupted for block in row]))
        for row in blocks
    )


def _block(session: Session, feeds: Feeds, pace: Pace) -> Runs:
    """One block of runs of one model."""
    run, outputs, clock = session.raw.run, session.readable, time.perf_counter
    for _ in range(pace.untimed):
        run(outputs, feeds)
    seconds, interrupted = np.empty(pace.timed), np.zeros(pace.timed, bool)
    before = interruptions()
    for start in range(0, pace.timed, pace.group):
        marks = [clock()]
        for _ in range(min(pace.group, pace.timed - start)):
            run(outputs, feeds)
            marks.append(clock())
        now = interruptions()
        seconds[start : start + pace.group] = np.diff(marks)
        interrupted[start : start + pace.group] = now != before
        before = now
    return Runs(seconds, interrupted)


def interruptions() -> int:
    """How often the system took a core from a thread of this process that had not asked to wait."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _evicted_bytes() -> int:
    """Twice the largest cache: writing so many bytes leaves nothing else in it."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max([EVICTED_BYTES, *(2 * (int(size.removesuffix("K")) << 10) for size in sizes if size.endswith("K"))])


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

"""How fast steps are: the time of each, and when a report is due; what an epoch costs, for estimates."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
ENOUGH_S = 0.2  # of a smoke run: the two batches come again until their steps took that long together

REPORT_S = 0.5  # between reports within an epoch; reading the loss waits for the device


class Meter:
    """Times the steps of one epoch. Reports and saves between `stop` and `start` do not count."""

    def __init__(self) -> None:
        self.step_s = 0.0  # of the last step
        self._begun = self._reported = time.perf_counter()
        self._samples, self._seconds = 0, 0.0

    def start(self) -> None:
        """The next step begins."""
        self._begun = time.perf_counter()

    def stop(self, samples: int) -> float:
        """A step of so many samples is done; its seconds."""
        self.step_s = time.perf_counter() - self._begun
        self._samples, self._seconds = self._samples + samples, self._seconds + self.step_s
        return self.step_s

    def report_due(self) -> bool:
        """Whether the next report is due; True once for each report."""
        now = time.perf_counter()
        due = now - self._reported > REPORT_S
        if due:
            self._reported = now
        return due

    @property
    def samples_per_s(self) -> float:
        """Over the epoch so far."""
        return self._samples / max(self._seconds, 1e-9)


class Pace:
    """Seconds of the steps and of the validations of a training."""

    def __init__(self) -> None:
        self.worked_s = 0.0  # in all of them
        self._steps: deque[float] = deque(maxlen=1000)
        self._checks: deque[float] = deque(maxlen=1000)

    def step(self, seconds: float) -> float:
        """Note a step; its seconds."""
        self._steps.append(seconds)
        self.worked_s += seconds
        return seconds

    def check(self, validate: Callable[[], T]) -> T:
        """Validate, and note how long that takes."""
        begun = time.perf_counter()
        value = validate()
        self._checks.append(time.perf_counter() - begun)
        self.worked_s += self._checks[-1]
        return value

    @property
    def step_s(self) -> float:
        """The median step without the first, which pays for what only a process's first step costs."""
        return statistics.median(list(self._steps)[1:] or self._steps or (0.0,))

    def facts(self, step_s: float, steps: int, share: float) -> dict[str, float]:
        """Seconds of a whole epoch of so many steps, whose validations see `share` times the samples; those spent here."""
        check_s = statistics.median(list(self._checks)[1:] or self._checks or (0.0,))
        return {"each_s": step_s * steps + check_s * share, "worked_s": self.worked_s}

"""How fast steps are: the time of each, and when a report is due."""

from __future__ import annotations

import time

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

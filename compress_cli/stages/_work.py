"""What a stage's work on samples takes; a smoke run, which sees only the first of them, tells from it what all will take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Work:
    """Seconds that the whole work takes in addition to what was done here."""

    def __init__(self) -> None:
        self.more_s = 0.0

    @contextmanager
    def over(self, seen: int, planned: int) -> Iterator[None]:
        """Times work on `seen` samples, where the whole is on `planned`."""
        begun = time.perf_counter()
        yield
        self.add(time.perf_counter() - begun, seen, planned)

    def add(self, spent_s: float, seen: float, planned: float) -> None:
        """Work on `seen` samples took so long, where the whole is on `planned`."""
        self.more_s += spent_s * (planned / max(1, seen) - 1)

    def facts(self, training: dict[str, float] | None = None) -> dict[str, Any]:
        """For the manifest, with the pace of the stage's training where it has one."""
        pace = {**(training or {}), **({"more_s": self.more_s} if self.more_s > 0 else {})}
        return {"pace": pace} if pace else {}

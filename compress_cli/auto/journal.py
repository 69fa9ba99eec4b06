"""What was measured on the way to a recipe, kept in the store: the same request goes on from it and decides the same way.

It also keeps the time: that of the answers, and that of calls that were interrupted before they had one, or in the run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress_cli.errors import ArtifactError
from compress_cli.pipeline.executor import Listener
from compress_cli.pipeline.step import Step
from compress_cli.progress import Progress
from compress_cli.store import durable

NOTED_S = 10.0  # between two notes of the time: so much of it is unknown after a power cut
FOLDER = ".auto"  # in the store


@dataclass
class Journal:
    """Answers by question, in the order in which they came, and the seconds that each took."""

    path: Path
    answers: dict[str, Any] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    interrupted_s: float = 0.0  # of earlier calls, beside the answers
    complete_s: float | None = None  # that all of it took, once it had come to its end
    earlier_s: float = field(init=False)  # that earlier calls took
    _answers_before_s: float = field(init=False)
    _noted: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._answers_before_s = sum(self.took_s.values())
        self.earlier_s = self._answers_before_s + self.interrupted_s

    @classmethod
    def open(cls, store: Path, key: str) -> Journal:
        """The journal of a request; a fresh one where there is none. ArtifactError where it can't be read."""
        path = store / FOLDER / f"{key}.json"
        durable.require_folder(path.parent)
        durable.require_file(path)
        if not path.is_file():
            return cls(path)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            took_s = {name: float(took) for name, took in document["took_s"].items()}
            complete_s = document.get("complete_s")
            times = float(document.get("interrupted_s", 0.0)), None if complete_s is None else float(complete_s)
            return cls(path, dict(document["answers"]), took_s, interrupted_s=times[0], complete_s=times[1])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: can't be read ({error}); remove it, and what it holds is measured again") from None

    @property
    def spent_s(self) -> float:
        """Seconds so far, of this call and of earlier ones."""
        return self.earlier_s + time.monotonic() - self.begun

    def remember(self, question: str, work: Callable[[], Any]) -> Any:
        """The known answer, or that of `work`, written down before it is used. Answers are JSON-ready."""
        if question not in self.answers:
            begun = time.monotonic()
            answer = work()
            self.took_s[question] = time.monotonic() - begun
            self.answers[question] = json.loads(json.dumps(answer))
            self._write()
        return self.answers[question]

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Within, whatever ends the work, what it took is written down."""
        try:
            yield
        finally:
            self.note_time()

    def note_time(self) -> None:
        """Write down what this call took so far, should it be interrupted; nothing once all of it came to its end before."""
        self._noted = time.monotonic()
        if self.complete_s is None:
            self._write()

    def note_time_at_times(self) -> None:
        """The same, now and then."""
        if time.monotonic() - self._noted > NOTED_S:
            self.note_time()

    def complete(self) -> float:
        """Seconds that all of it took, now that it has come to its end: what the first call that did so says."""
        if self.complete_s is None:
            self.complete_s = self.spent_s
            self._write()
        return self.complete_s

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        answers_s = sum(self.took_s.values()) - self._answers_before_s  # of this call
        beside_s = self.interrupted_s + time.monotonic() - self.begun - answers_s
        document = {
            "answers": self.answers,
            "took_s": self.took_s,
            "interrupted_s": max(0.0, beside_s),
            "complete_s": self.complete_s,
        }
        durable.write(self.path, (json.dumps(document, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Timekeeper:
    """A listener that has the journal note the time, now and then, and passes everything on."""

    journal: Journal
    listener: Listener

    def begins(self, step: Step, smoke: bool) -> None:
        self.journal.note_time_at_times()
        self.listener.begins(step, smoke)

    def progress(self, step: Step, progress: Progress) -> None:
        self.journal.note_time_at_times()
        self.listener.progress(step, progress)

    def ended(self, step: Step, cached: bool, seconds: float, problem: str) -> None:
        self.journal.note_time_at_times()
        self.listener.ended(step, cached, seconds, problem)

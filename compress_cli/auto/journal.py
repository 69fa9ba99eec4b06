"""What was measured on the way to a recipe, kept in the store: the same request goes on from it and decides the same way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress_cli.errors import ArtifactError
from compress_cli.store import durable

FOLDER = ".auto"  # in the store


@dataclass
class Journal:
    """Answers by question, in the order in which they came, and the seconds that each took."""

    path: Path
    answers: dict[str, Any] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    earlier_s: float = field(init=False)  # that earlier calls took

    def __post_init__(self) -> None:
        self.earlier_s = sum(self.took_s.values())

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
            return cls(path, dict(document["answers"]), {name: float(took) for name, took in document["took_s"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: can't be read ({error}); remove it, and what it holds is measured again") from None

    @property
    def spent_s(self) -> float:
        """Seconds so far: of this call, and of the answers that earlier ones found."""
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

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        document = {"answers": self.answers, "took_s": self.took_s}
        durable.write(self.path, (json.dumps(document, indent=1) + "\n").encode())

"""What was asked for: a model, data, promises, a time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from compress_cli.data.datasets import Dataset
from compress_cli.data.tasks import Task
from compress_cli.errors import RecipeError
from compress_cli.identity import file_digest, identity
from compress_cli.measurement.latency import TimingConditions
from compress_cli.measurement.machine import machine
from compress_cli.networks.models import Model
from compress_cli.statistics.gate import Gate

VERSION = 3  # raise it when the same measurements lead to another recipe
Target = Literal["this", "portable"]

DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True)
class Request:
    """One call of `compress auto`, checked."""

    digest: str  # of the model: its files, and how they are loaded
    dataset: Dataset
    task: Task
    goals: tuple[Gate, ...]
    within_s: float
    timing: TimingConditions
    target: Target
    students: tuple[Model, ...]
    seed: int

    @property
    def key(self) -> str:
        """A hash of all that decides: content, not places. Another machine times differently, and decides anew."""
        parts = [
            VERSION,
            self.digest,
            self.dataset.fingerprint(),
            identity(self.task),
            [goal.promise for goal in self.goals],
            self.within_s,
            self.timing.model_dump(mode="json"),
            self.target,
            [identity(student) for student in self.students],
            self.seed,
            machine(),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def seconds(text: str) -> float:
    """`90s`, `60m`, `1h30m` as seconds; RecipeError for anything else, and for no time at all."""
    match = DURATION.fullmatch(text.strip())
    parts = [float(part or 0) for part in match.groups()] if match and text.strip() else [0.0, 0.0, 0.0]
    total = 3600 * parts[0] + 60 * parts[1] + parts[2]
    if not match or total <= 0:
        raise RecipeError(f"--within {text}: is no time; write it as 90s, 60m or 1h30m")
    return total


def duration(seconds: float) -> str:
    """`0.32 s`, `45 s`, `12 min`, `1 h 30 min`."""
    if seconds < 2:
        return f"{seconds:.2g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def goals(texts: list[str]) -> tuple[Gate, ...]:
    """The promises of the command line; RecipeError where there is none, or one can't be understood or names a stage."""
    if not texts:
        raise RecipeError(
            "--goal: nothing is promised, so nothing can be aimed at; such as --goal 'compression_ratio>=10' --goal "
            "'speedup>=4' --goal 'accuracy_drop<=0.01'"
        )
    found: list[Gate] = []
    complaints: list[str] = []
    for text in dict.fromkeys(texts):
        try:
            gate = Gate(promise=text)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            complaints.append(f"--goal '{text}': {reason}")
            continue
        if gate.terms.row:
            complaints.append(
                f"--goal '{text}': the stages are not chosen yet; leave '{gate.terms.row}.' out: a goal is about what ships"
            )
        found.append(gate)
    if complaints:
        raise RecipeError("\n".join(complaints))
    return tuple(found)


def digest(paths: Sequence[Path], stage: Mapping[str, Any], model: Model | None) -> str:
    """One hash over the content of a model's files, how they are loaded, and the architecture they belong to."""
    parts = [[file_digest(path) for path in paths], stage, identity(model) if model else None]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

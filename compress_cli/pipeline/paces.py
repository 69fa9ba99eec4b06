"""What steps took on this machine: noted after every smoke run and every step that ran, found again for steps like them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.data.datasets import Dataset
from compress_cli.errors import CompressError
from compress_cli.identity import not_in_key
from compress_cli.measurement import sessions
from compress_cli.pipeline import executor
from compress_cli.pipeline.recipe import Recipe
from compress_cli.pipeline.step import Step
from compress_cli.settings import Settings
from compress_cli.stages import Stage
from compress_cli.store import durable
from compress_cli.store.artifact import Artifact, Manifest
from compress_cli.training.config import TrainingConfig

NOTED = "paces.json"
MOST = 4000  # entries; the oldest go first
LENGTHS = ("epochs", "views", "gradual", "freeze", "schedule", "keep_epochs", "rewind_epoch", "seeds")
"""Settings of how long a stage works, and when: they move no step's time."""
TRAINED_WITH = ("batch", "precision", "augment", "accumulate", "deterministic")
"""Settings of a training on which the time of a step depends most."""

Likeness = Literal["same settings", "similar", "same stage"]
Origin = Literal["run", "smoke run"]


class Pace(BaseModel):
    """What a step took: seconds once, and seconds for each epoch of its trainings or view of its table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fixed_s: float
    each_s: float
    disk_bytes: int
    memory_bytes: int | None  # the process's peak by the end of that step
    origin: Origin

    def seconds(self, stage: Stage) -> float:
        """Of a stage that works at this pace."""
        return self.fixed_s + self.each_s * repetitions(stage)


def of_run(manifest: Manifest, stage: Stage) -> Pace:
    """The pace of a step that ran."""
    count, pace = repetitions(stage), _noted(manifest)
    wall_s = manifest.wall_time_s
    each_s = min(pace.get("each_s", wall_s / count if count else 0.0), wall_s / max(count, 1e-9))
    return Pace(
        fixed_s=max(0.0, wall_s - count * each_s),
        each_s=each_s,
        disk_bytes=sum(file.bytes for file in manifest.files.values()),
        memory_bytes=manifest.environment.get("peak_memory_bytes"),
        origin="run",
    )


def of_trial(manifest: Manifest, wall_s: float) -> Pace:
    """The pace of a step that was tried on two batches, in so many seconds."""
    pace = _noted(manifest)
    written = sum(file.bytes for file in manifest.files.values())
    return Pace(
        fixed_s=max(0.0, wall_s - pace.get("worked_s", 0.0)) + pace.get("more_s", 0.0),
        each_s=pace.get("each_s", 0.0),
        disk_bytes=manifest.facts.get("planned_bytes", written),
        memory_bytes=manifest.environment.get("peak_memory_bytes"),
        origin="smoke run",
    )


def repetitions(stage: Stage) -> float:
    """Epochs of all trainings of a stage together, or views of a table; 0 of a stage that has neither."""
    views = getattr(stage, "views", None)
    if isinstance(views, int):
        return views
    steps = getattr(stage, "steps", None)
    between = getattr(steps, "training", None)
    count = getattr(stage, "rounds", 1) * _epochs(getattr(stage, "training", None))
    return count + ((steps.count - 1) * _epochs(between) if steps is not None and between else 0)


def _epochs(training: object) -> int:
    return training.epochs if isinstance(training, TrainingConfig) else 0


@dataclass
class Paces:
    """The paces noted in a store, for the machine, device and threads of a recipe."""

    folder: Path  # of the store's memory
    recipe: Recipe
    _known: dict[str, Pace] | None = None
    _subjects: dict[str, list[tuple[Likeness, str]]] = field(default_factory=dict)  # by key: steps are asked about often
    _fingerprints: dict[str, str] = field(default_factory=dict)

    def find(self, step: Step) -> tuple[Pace, Likeness] | None:
        """The pace of the step most like this one; of those as much like it, one that ran before one that was tried."""
        known = self._read() if self._known is None else self._known
        self._known = known
        for likeness, subject in self._of(step):
            for origin in ("run", "smoke run"):
                if f"{subject} {origin}" in known:
                    return known[f"{subject} {origin}"], likeness
        return None

    def note(self, noted: list[tuple[Step, Pace]]) -> None:
        """Remember what steps took."""
        known = self._read()
        for step, pace in noted:
            for _, subject in self._of(step):
                name = f"{subject} {pace.origin}"
                known.pop(name, None)  # so that the newest stand last
                known[name] = pace
        self._known = dict(list(known.items())[-MOST:])
        document = {name: pace.model_dump() for name, pace in self._known.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        durable.write(self.folder / NOTED, json.dumps(document).encode())

    def note_run(self, step: Step, artifact: Artifact) -> None:
        """Remember a step that ran here just now."""
        self.note([(step, of_run(artifact.manifest, step.stage))])

    def fits(self, manifest: Manifest) -> bool:
        """Whether an artifact was made on a machine like this one, with as many threads."""
        return "processes" not in manifest.environment and all(
            manifest.environment.get(name) == value for name, value in self._machine().items()
        )

    def _machine(self) -> dict[str, Any]:
        return {
            "device": executor.named(executor.device(self.recipe.device)),
            "threads": self.recipe.threads or torch.get_num_threads(),
            "processor": sessions.machine()["processor"],
        }

    def _of(self, step: Step) -> list[tuple[Likeness, str]]:
        """What a step has in common with steps that take as long, from much to little, hashed."""
        if step.key not in self._subjects:
            dataset = step.dataset or self.recipe.dataset
            if step.fold:  # every fold takes as long as the first, the one that a smoke run tries
                dataset = dataset.model_copy(update={"fold": 1})
            where = {**self._machine(), "data": self._data(dataset)}
            levels: list[tuple[Likeness, Any]] = [("same settings", [where, _whole(step)]), ("similar", [where, _core(step)])]
            if not step.stage.long:
                levels.append(("same stage", [where, _settings(step.stage)]))
            self._subjects[step.key] = [
                (likeness, hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()[:32])
                for likeness, part in levels
            ]
        return self._subjects[step.key]

    def _data(self, dataset: Dataset) -> str:
        settings = dataset.model_dump_json()
        if settings not in self._fingerprints:
            try:
                self._fingerprints[settings] = dataset.fingerprint()
            except CompressError:
                self._fingerprints[settings] = "unknown"
        return self._fingerprints[settings]

    def _read(self) -> dict[str, Pace]:
        """What was noted; a file that can't be read counts as missing."""
        path = self.folder / NOTED
        try:
            document = json.loads(path.read_text()) if path.is_file() else {}
            return {name: Pace.model_validate(pace) for name, pace in document.items()}
        except (ValueError, ValidationError, AttributeError, OSError):
            return {}


def _noted(manifest: Manifest) -> dict[str, float]:
    pace = manifest.facts.get("pace")
    return pace if isinstance(pace, dict) else {}


def _whole(step: Step) -> Any:
    """All settings of a step and of those that it takes its inputs from, but for those of how long they work."""
    inputs = {role: [_whole(source) for source in sources] for role, sources in step.inputs.items()}
    return [_settings(step.stage), inputs]


def _core(step: Step) -> Any:
    """The architectures and those settings that a step's time depends on most."""
    settings = dict(_without_trainings(step.stage))
    for name, training in _trainings(step.stage):
        settings[name] = {field: training.get(field) for field in TRAINED_WITH}
    if "losses" in type(step.stage).model_fields:
        settings["losses"] = sorted(loss.type for loss in getattr(step.stage, "losses", ()))
    return [settings, {role: [_architecture(source) for source in sources] for role, sources in step.inputs.items()}]


def _architecture(step: Step) -> Any:
    """What a step makes of the models before it, whatever they were trained on."""
    return [_without_trainings(step.stage), {role: [*map(_architecture, sources)] for role, sources in step.inputs.items()}]


def _without_trainings(stage: Stage) -> dict[str, Any]:
    left_out = {name for name, _ in _trainings(stage)} | {"losses", "combine"}
    return {name: value for name, value in _settings(stage).items() if name not in left_out}


def _trainings(stage: Stage) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in type(stage).model_fields:
        value = getattr(stage, name)
        if isinstance(value, TrainingConfig):
            yield name, value.model_dump(mode="json")


def _settings(stage: Stage) -> dict[str, Any]:
    left_out = {name for name, info in type(stage).model_fields.items() if not_in_key(info)} | stage.consumes.keys()
    settings = {name: _dumped(getattr(stage, name)) for name in type(stage).model_fields if name not in left_out}
    pruned: dict[str, Any] = _pruned({"type": stage.type, **settings})
    return pruned


def _dumped(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.model_dump(mode="json", serialize_as_any=True)
    return [_dumped(part) for part in value] if isinstance(value, tuple) else value


def _pruned(value: Any) -> Any:
    """Without the settings of how long a stage works, at any depth."""
    if isinstance(value, dict):
        return {name: _pruned(part) for name, part in value.items() if name not in LENGTHS}
    return [_pruned(part) for part in value] if isinstance(value, list | tuple) else value
